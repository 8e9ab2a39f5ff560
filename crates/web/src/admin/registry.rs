//! The models of the admin behind one interface: what its pages ask of a description, whatever the model.

mod described;

use std::collections::BTreeMap;

use larder_models::{Db, Invalid, Permissions, Result, Verb, permission};
use serde::Serialize;
use serde_json::Value;

use super::{
    describe::{Choice, Dependents, Entered, Kind},
    staff::CACHE,
};

/// Who asks, and what he may do.
#[derive(Debug, Clone)]
pub(super) struct Asker {
    pub(super) id: i64,
    pub(super) is_superuser: bool,
    pub(super) permissions: Permissions,
}

/// A model of the admin.
pub(super) trait Registered: Send + Sync {
    /// What it is called, and what there is to see of it.
    fn names(&self) -> Names;

    /// Tells whether somebody may do something with its rows.
    fn allows(&self, asker: &Asker, verb: Verb) -> bool {
        let is_possible = verb == Verb::View || self.names().is_editable;
        is_possible && asker.permissions.allow(self.names().table, verb)
    }

    fn count(&self, db: &mut Db) -> Result<i64>;

    /// The columns of its list.
    fn columns(&self) -> Vec<ShownColumn>;

    /// Loads a page of the list.
    fn list(&self, db: &mut Db, asked: &Asked) -> Result<Listed>;

    /// Returns the primary keys of all rows that a list shows on all its pages.
    fn pks(&self, db: &mut Db, asked: &Asked) -> Result<Vec<i64>>;

    /// Returns what a list shows of these rows, in this order; those that are gone are left out.
    fn rows(&self, db: &mut Db, pks: &[i64]) -> Result<Vec<ShownRow>>;

    /// Returns what a form shows of a row, or of a new one; `None` if there is no such row.
    fn open(&self, db: &mut Db, pk: Option<i64>) -> Result<Option<Row>>;

    /// Returns the form as it is shown, with these values in it.
    fn form(&self, db: &mut Db, asker: &Asker, values: &Values) -> Result<Vec<ShownFieldset>>;

    /// Reads what was sent. What the asker may not change, or is not there, stays as it is in the row.
    ///
    /// # Errors
    /// The fields that cannot be taken, and what is wrong with each.
    fn read(&self, db: &mut Db, asker: &Asker, sent: &Sent) -> Result<Result<Read, Invalid>>;

    /// Stores what was read and notes it in the history; `None` if the asker may not change this row.
    fn save(&self, db: &mut Db, asker: &Asker, pk: Option<i64>, read: Read) -> Result<Option<Stored>>;

    /// Returns the names of these rows, those that are there, and what else changes when they are deleted.
    fn dependents(&self, db: &mut Db, asker: &Asker, pks: &[i64]) -> Result<Doomed>;

    /// Deletes rows and notes it in the history; returns their names, or `None` if the asker may not delete one of them.
    fn delete(&self, db: &mut Db, asker: &Asker, pks: &[i64]) -> Result<Option<Vec<String>>>;

    /// Does one of [`Names::actions`] with rows, and returns what was done with how many; `None` if the asker may not
    /// change one of them, or there is no such action.
    fn act(&self, db: &mut Db, asker: &Asker, action: &str, pks: &[i64]) -> Result<Option<(usize, &'static str)>>;
}

/// What a model is called, and what there is to see of it.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Names {
    pub(super) path: &'static str,
    /// Its table, which is what permissions name.
    pub(super) table: &'static str,
    /// Its name in the history.
    pub(super) model: &'static str,
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    /// Where a search looks; `None` if there is none.
    pub(super) search: Option<&'static str>,
    /// Whether rows are made and changed by hand.
    pub(super) is_editable: bool,
    /// Name and label of what is done with several rows.
    pub(super) actions: Vec<(&'static str, &'static str)>,
}

impl Names {
    /// Returns the address of the list.
    pub(super) fn list_href(&self) -> String {
        format!("/admin/{}/", self.path)
    }
}

/// What is asked of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) search: String,
    pub(super) order: String,
    pub(super) page: u32,
    /// By name.
    pub(super) filters: BTreeMap<String, String>,
}

/// A page of a list.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) rows: Vec<ShownRow>,
    pub(super) filters: Vec<ShownFilter>,
    pub(super) total: i64,
    pub(super) page: u32,
    pub(super) pages: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownColumn {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
    pub(super) is_ordered: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownRow {
    pub(super) pk: i64,
    pub(super) label: String,
    /// In the order of the columns.
    pub(super) values: Vec<Value>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownFilter {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) choices: Vec<Choice>,
    pub(super) chosen: Option<String>,
}

/// The values of a form, by field: a text, a truth, or a list of texts.
pub(super) type Values = BTreeMap<&'static str, Value>;

/// A row as its form and its pages show it.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) pk: Option<i64>,
    pub(super) label: String,
    pub(super) values: Values,
    pub(super) version: i64,
    pub(super) facts: Vec<ShownFact>,
    pub(super) view_on_site: Option<String>,
    /// Whether only superusers may change it.
    pub(super) is_guarded: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownFact {
    label: &'static str,
    text: Option<String>,
    ms: Option<i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownFieldset {
    pub(super) title: &'static str,
    pub(super) fields: Vec<ShownField>,
}

#[derive(Debug, Serialize)]
pub(super) struct ShownField {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    /// `line`, `lines`, `check`, `select`, `checks`, `password`.
    pub(super) widget: &'static str,
    pub(super) is_required: bool,
    /// Whether it is shown and cannot be changed.
    pub(super) is_fixed: bool,
    pub(super) value: Value,
    pub(super) choices: Vec<Choice>,
}

/// A form as it was sent: several values to a name.
pub(super) type Sent = BTreeMap<String, Vec<String>>;

/// What was read of a form.
pub(super) struct Read {
    /// As it was entered, for the form to be shown again. Passwords are left out.
    pub(super) values: Values,
    pub(super) version: i64,
    entered: Vec<(&'static str, Entered)>,
    links: Vec<(&'static str, Vec<i64>)>,
}

/// What became of a form.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) pk: i64,
    pub(super) label: String,
    pub(super) has_changed: bool,
    pub(super) view_on_site: Option<String>,
}

/// What is about to be deleted.
#[derive(Debug, Serialize)]
pub(super) struct Doomed {
    pub(super) pks: Vec<i64>,
    pub(super) names: Vec<String>,
    pub(super) dependents: Vec<Dependents>,
    /// Whether something of it only a superuser may delete.
    pub(super) is_guarded: bool,
}

/// Returns the choices of permissions for these models.
pub(super) fn permission_choices(models: &[Names]) -> Vec<Choice> {
    let choices = |names: &Names| {
        let (table, many) = (names.table, names.many);
        let verbs = Verb::ALL.into_iter().filter(|verb| names.is_editable || *verb == Verb::View);
        verbs.map(|verb| Choice::new(permission(table, verb), format!("{verb} {many}"))).collect::<Vec<_>>()
    };
    let caches = [(Verb::View, "see what is in the caches"), (Verb::Delete, "throw out of the caches")];
    let caches = caches.map(|(verb, label)| Choice::new(permission(CACHE, verb), label));
    models.iter().flat_map(choices).chain(caches).collect()
}
