//! The parsers that are not public, for the fuzz targets.

use bytes::Bytes;

use crate::envelope::Envelope;

/// Reads an entry as a store gives it back, whether its checksum is right or not.
pub fn entry(stored: &[u8]) {
    let stored = Bytes::copy_from_slice(stored);
    for verify in [false, true] {
        if let Ok(envelope) = Envelope::decode(&stored, verify) {
            envelope.tags.iter().for_each(drop);
            let _ = envelope.payload.map(crate::envelope::Payload::unpack);
        }
    }
}

/// Reads a page as it lies in an entry.
#[cfg(feature = "page")]
pub fn page(stored: &[u8]) {
    crate::page::read_stored(Bytes::copy_from_slice(stored));
}

/// Rewrites the blocks of a template.
#[cfg(feature = "template")]
pub fn template(source: &str) {
    crate::template::read_source(source);
}
