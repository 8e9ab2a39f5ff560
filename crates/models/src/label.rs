//! The labels, and which objects have which.

use diesel::prelude::*;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    db::Db,
    error::{Invalid, Result},
    link::{Link, Side},
    model::Model,
    object::Object,
    row,
    schema::{label, object_label},
    text::validate_name,
};

/// What is said of objects: copper, patented.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Queryable, Selectable, Identifiable, Insertable, AsChangeset,
)]
#[diesel(table_name = label)]
pub struct Label {
    /// The primary key.
    #[diesel(skip_insertion)]
    pub id: i64,
    /// What it is called. No two are called the same.
    pub name: String,
    /// The row version: 1, and one more with each save.
    pub version: i64,
}

/// What a new [`Label`] is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct NewLabel {
    /// What it is called.
    pub name: String,
}

impl Label {
    /// Loads all of them, by name.
    ///
    /// # Errors
    /// What the database says.
    pub fn all(db: &mut Db) -> Result<Vec<Label>> {
        Label::list(db, |rows| rows.order((label::name, label::id)))
    }
}

impl Model for Label {
    row!(Label in label, fields = [name], version = version);
    type New = NewLabel;

    fn draft(new: NewLabel, _now: Timestamp) -> Self {
        Label { id: 0, name: new.name, version: 1 }
    }

    fn validate(&self) -> Result<(), Invalid> {
        validate_name(&self.name)
    }

    fn stamp(&mut self, _now: Timestamp) {
        self.version += 1;
    }

    fn before_delete(&self, db: &mut Db) -> Result<()> {
        ObjectLabel::clear(db, Side::Right, self.id)?;
        Ok(())
    }

    fn label(&self) -> String {
        self.name.clone()
    }
}

/// Which objects have which labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLabel;

impl Link for ObjectLabel {
    crate::link!(ObjectLabel in object_label, object_id -> Object, label_id -> Label);
}
