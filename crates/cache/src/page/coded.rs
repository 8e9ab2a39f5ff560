//! Bodies made shorter, once for each stored page.

use std::io::Write;

use actix_web::rt::task::spawn_blocking;
use bytes::Bytes;

use super::policy::coding::Coding;

/// Below this a body is not worth a `Content-Encoding`: it goes in one packet anyway.
const MIN_BYTES: usize = 1024;

/// How hard to try, for each: about where a second look at the same page would cost more than it saves on the way.
const BROTLI_QUALITY: i32 = 6;
const BROTLI_WINDOW: i32 = 20;
const BROTLI_BUFFER: usize = 4096;
const ZSTD_LEVEL: i32 = 9;
const GZIP_LEVEL: u32 = 7;

/// A body in one coding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coded {
    pub(super) coding: Coding,
    pub(super) body: Bytes,
}

/// Codes a body in every way that makes it shorter by a tenth at least.
pub(super) async fn all_of(body: &Bytes) -> Vec<Coded> {
    if body.len() < MIN_BYTES {
        return Vec::new();
    }
    let body = body.clone();
    let made = spawn_blocking(move || {
        let code = |coding| Some(Coded { coding, body: code(coding, &body).ok()?.into() });
        Coding::ALL.into_iter().filter_map(code).filter(|coded| coded.body.len() < body.len() / 10 * 9).collect()
    });
    // Without them the page is still the page.
    made.await.unwrap_or_default()
}

fn code(coding: Coding, body: &[u8]) -> std::io::Result<Vec<u8>> {
    match coding {
        Coding::Brotli => {
            let mut out = Vec::new();
            let parameters = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: BROTLI_WINDOW,
                size_hint: body.len(),
                ..Default::default()
            };
            let mut encoder = brotli::CompressorWriter::with_params(&mut out, BROTLI_BUFFER, &parameters);
            encoder.write_all(body)?;
            drop(encoder);
            Ok(out)
        }
        Coding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
            encoder.write_all(body)?;
            encoder.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[actix_web::test]
    async fn every_coding_reads_back() {
        let body = Bytes::from("<li>Quince jelly</li>\n".repeat(200));
        let all = all_of(&body).await;
        assert_eq!(all.iter().map(|coded| coded.coding).collect::<Vec<_>>(), Coding::ALL);
        for Coded { coding, body: coded } in all {
            assert!(coded.len() < body.len() / 10, "{coding:?}");
            let mut read = Vec::new();
            match coding {
                Coding::Brotli => brotli::BrotliDecompress(&mut &coded[..], &mut read).unwrap(),
                Coding::Zstd => read = zstd::bulk::decompress(&coded, body.len()).unwrap(),
                Coding::Gzip => drop(flate2::read::GzDecoder::new(&coded[..]).read_to_end(&mut read).unwrap()),
            }
            assert_eq!(read, body, "{coding:?}");
        }
    }

    #[actix_web::test]
    async fn what_gets_no_shorter_stays_as_it_is() {
        let noise: Vec<u8> = (0..4096u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        assert_eq!(all_of(&noise.into()).await, []);
        assert_eq!(all_of(&Bytes::from("a".repeat(MIN_BYTES - 1))).await, []);
    }
}
