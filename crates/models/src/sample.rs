//! A small collection to try the app with.

use serde::Deserialize;

use crate::{
    db::Db,
    error::{Error, Result},
    model::Model,
    object::{NewObject, Object},
};

/// The objects, with the days since each was added.
const SAMPLE: &str = include_str!("sample.json");

const MILLIS_PER_DAY: i64 = 24 * 60 * 60 * 1000;

#[derive(Deserialize)]
struct Sample {
    title: String,
    body: Vec<String>,
    published: bool,
    days_ago: i64,
}

/// Adds the sample objects if there are no objects at all, and returns how many were added.
///
/// They are saved like any other object, so signals are sent.
///
/// # Errors
/// What the database says.
///
/// # Examples
/// ```
/// use larder_models::{Database, Signals, sample};
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.migrate()?;
/// assert!(database.write(sample::load)? >= 20);
/// assert_eq!(database.write(sample::load)?, 0);
/// # Ok::<(), larder_models::Error>(())
/// ```
pub fn load(db: &mut Db) -> Result<usize> {
    db.transaction(|db| {
        if Object::count(db)? > 0 {
            return Ok(0);
        }
        let samples: Vec<Sample> = serde_json::from_str(SAMPLE)
            .map_err(|error| Error::Encoding { what: "the sample objects", source: error.into() })?;
        let now = db.now();
        for sample in &samples {
            let new =
                NewObject { title: sample.title.clone(), body: sample.body.join("\n\n"), published: sample.published };
            let mut draft = Object::draft(new, now);
            draft.created -= sample.days_ago * MILLIS_PER_DAY;
            draft.updated = draft.created;
            Object::insert_draft(db, draft)?;
        }
        Ok(samples.len())
    })
}
