//! What the app makes up for itself and keeps in files that only its owner may read.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use actix_web::cookie::Key;

/// The key that session cookies are sealed with.
const SESSION_KEY_FILE: &str = "var/session_key";

/// The bytes of a session key: 32 to sign, 32 to encrypt.
const SESSION_KEY_BYTES: usize = 64;

/// Reads the session key, or makes one.
///
/// # Errors
/// The file system's.
pub fn session_key() -> io::Result<Key> {
    let file = Path::new(SESSION_KEY_FILE);
    match fs::read(file) {
        Ok(bytes) if bytes.len() >= SESSION_KEY_BYTES => return Ok(Key::from(&bytes)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let key = Key::generate();
    write_private(file, key.master())?;
    Ok(key)
}

/// Makes a secret that lasts as long as this process.
///
/// # Errors
/// The system has no random numbers.
pub fn token() -> anyhow::Result<String> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no random numbers: {error}"))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes a file that only its owner may read, with the folder it stands in.
///
/// # Errors
/// The file system's.
pub fn write_private(file: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    opened.write_all(content)
}
