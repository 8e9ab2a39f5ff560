//! A small collection to try the app with.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{
    category::{Category, NewCategory},
    db::Db,
    error::{Error, Result},
    label::{Label, NewLabel, ObjectLabel},
    link::Link,
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
    category: Option<String>,
    labels: Vec<String>,
    days_ago: i64,
}

/// Adds the sample objects with their categories and labels if there is nothing of the kind at all, and returns how many
/// objects were added.
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
        if Object::count(db)? + Category::count(db)? + Label::count(db)? > 0 {
            return Ok(0);
        }
        let samples: Vec<Sample> = serde_json::from_str(SAMPLE)
            .map_err(|error| Error::Encoding { what: "the sample objects", source: error.into() })?;
        let names: BTreeSet<&String> = samples.iter().filter_map(|sample| sample.category.as_ref()).collect();
        let new = names.into_iter().map(|name| NewCategory { name: name.clone() });
        let categories = Category::bulk_insert(db, new)?;
        let names: BTreeSet<&String> = samples.iter().flat_map(|sample| &sample.labels).collect();
        let labels = Label::bulk_insert(db, names.into_iter().map(|name| NewLabel { name: name.clone() }))?;

        let now = db.now();
        let mut links = Vec::new();
        for sample in &samples {
            let category = categories.iter().find(|category| Some(&category.name) == sample.category.as_ref());
            let new = NewObject {
                title: sample.title.clone(),
                body: sample.body.join("\n\n"),
                published: sample.published,
                category_id: category.map(|category| category.id),
            };
            let mut draft = Object::draft(new, now);
            draft.created -= sample.days_ago * MILLIS_PER_DAY;
            draft.updated = draft.created;
            let object = Object::insert_draft(db, draft)?;
            let labels = labels.iter().filter(|label| sample.labels.contains(&label.name));
            links.extend(labels.map(|label| (object.id, label.id)));
        }
        ObjectLabel::add(db, &links)?;
        Ok(samples.len())
    })
}
