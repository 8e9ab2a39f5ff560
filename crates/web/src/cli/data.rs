//! Commands that carry the content of the database in and out.

use std::{
    fs,
    io::{self, BufWriter, Read, Write},
    path::Path,
};

use anyhow::Context;
use larder_models::{Data, Database};

/// Writes rows as JSON to a file, or to standard output.
pub(super) fn dump(database: &Database, models: &[String], output: Option<&Path>) -> anyhow::Result<()> {
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    let records = database.read(|db| Data::collection().dump(db, &models))?;
    let mut json = serde_json::to_vec_pretty(&records)?;
    json.push(b'\n');
    match output {
        Some(path) => fs::write(path, json).with_context(|| format!("cannot write {}", path.display())),
        // Nobody may be reading any more, as behind `| head`.
        None => match BufWriter::new(io::stdout().lock()).write_all(&json) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        },
    }
}

/// Stores rows from a file, or from standard input if it is `-`.
pub(super) fn load(database: &Database, input: &Path) -> anyhow::Result<()> {
    let mut json = String::new();
    let read = match input == Path::new("-") {
        true => io::stdin().read_to_string(&mut json).map(drop),
        false => fs::File::open(input).and_then(|mut file| file.read_to_string(&mut json)).map(drop),
    };
    read.with_context(|| format!("cannot read {}", input.display()))?;
    let records = serde_json::from_str(&json)
        .with_context(|| format!("{} is no list of {{\"model\": …, \"pk\": …, \"fields\": {{…}}}}", input.display()))?;
    let count = database.write(|db| Data::collection().load(db, records))?;
    say!("loaded {count} rows");
    Ok(())
}
