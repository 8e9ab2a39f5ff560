//! How a model is described to the admin: which columns its list has, by what it is searched, filtered and ordered, and what
//! its form looks like. The pages are made from that.

use jiff::Timestamp;
use larder_models::{Db, Error, Invalid, Model, Password, Result};
use serde_json::Value;

/// Stands for the whole form among its errors, as in Django.
pub(super) const WHOLE_FORM: &str = "__all__";

/// How many names a page lists before it counts the rest.
pub(super) const MAX_NAMES: u32 = 50;

/// A description, to which the pages of the admin are made.
pub(super) struct ModelAdmin<M: Model> {
    /// The last part of its addresses: `objects`.
    pub(super) path: &'static str,
    /// What one row is called: `object`.
    pub(super) one: &'static str,
    /// What several are called: `objects`.
    pub(super) many: &'static str,
    pub(super) columns: Vec<Column<M>>,
    pub(super) search: Option<Search<M>>,
    pub(super) filters: Vec<Filter<M>>,
    /// By which column the list is ordered unless somebody asks for another one; `-` for the last first.
    pub(super) ordering: &'static str,
    pub(super) per_page: u32,
    /// Makes an empty row for the form; `None` if rows are not made by hand.
    pub(super) blank: Option<fn(Timestamp) -> M>,
    pub(super) fieldsets: Vec<Fieldset<M>>,
    pub(super) links: Vec<LinkField>,
    /// Reads and writes the row version, by which a form knows what its editor saw.
    pub(super) version: Option<Version<M>>,
    /// The fields that are shown and cannot be edited, as when it was made and changed.
    pub(super) facts: fn(&M) -> Vec<(&'static str, Fact)>,
    pub(super) actions: Vec<Action>,
    /// Called before a row is stored or deleted; an error refuses it, and the page shows its text.
    pub(super) before_save: fn(&mut Db, &M) -> Result<()>,
    pub(super) before_delete: fn(&mut Db, &M) -> Result<()>,
    pub(super) view_on_site: fn(&M) -> Option<String>,
    /// Names what else changes when it is deleted.
    pub(super) dependents: fn(&mut Db, &M) -> Result<Vec<Dependents>>,
    /// Whether only superusers may change this row.
    pub(super) is_guarded: fn(&M) -> bool,
}

/// Reads the row version, and writes it.
type Version<M> = (fn(&M) -> i64, fn(&mut M, i64));

/// Orders rows; the second says whether the last comes first.
type Order<M> = fn(<M as Model>::Rows, bool) -> <M as Model>::Rows;

/// A column of a list.
pub(super) struct Column<M: Model> {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
    /// Returns the values of the rows on a page, in their order.
    pub(super) values: fn(&mut Db, &[M]) -> Result<Vec<Value>>,
    /// Orders by it, if one can.
    pub(super) order: Option<Order<M>>,
}

/// How a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Text,
    /// Yes or no.
    Bool,
    /// Milliseconds since 1970.
    Time,
}

/// What is searched.
pub(super) struct Search<M: Model> {
    /// Says where: `title and body`.
    pub(super) help: &'static str,
    /// Keeps the rows in which a word occurs, given as a pattern of `LIKE` whose escape is a backslash.
    pub(super) word: fn(M::Rows, String) -> M::Rows,
}

/// Something by which a list is narrowed.
pub(super) struct Filter<M: Model> {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    /// Returns the values that may be chosen.
    pub(super) choices: fn(&mut Db) -> Result<Vec<Choice>>,
    /// Keeps the rows with a value, one of the choices.
    pub(super) keep: fn(M::Rows, &str, Timestamp) -> M::Rows,
}

/// A value that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Choice {
    pub(super) value: String,
    pub(super) label: String,
}

impl Choice {
    pub(super) fn new(value: impl ToString, label: impl Into<String>) -> Self {
        Choice { value: value.to_string(), label: label.into() }
    }
}

/// A part of a form.
pub(super) struct Fieldset<M> {
    /// Its heading; empty for none.
    pub(super) title: &'static str,
    pub(super) fields: Vec<Field<M>>,
}

/// A field of a form.
pub(super) struct Field<M> {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    pub(super) widget: Widget,
    pub(super) is_required: bool,
    /// Whether only superusers may change it.
    pub(super) is_guarded: bool,
    pub(super) get: fn(&M) -> Value,
    pub(super) set: fn(&mut M, Entered) -> Result<(), serde_json::Error>,
}

/// What was entered in a field.
pub(super) enum Entered {
    Value(Value),
    Password(Password),
}

impl Entered {
    /// Returns the value; a password is none.
    pub(super) fn value(self) -> Value {
        match self {
            Entered::Value(value) => value,
            Entered::Password(_) => Value::Null,
        }
    }
}

/// How a field is edited.
#[derive(Clone, Copy)]
pub(super) enum Widget {
    /// One line.
    Line,
    /// Several lines.
    Lines,
    /// Yes or no.
    Check,
    /// One of several rows, or none.
    Select(fn(&mut Db) -> Result<Vec<Choice>>),
    /// Any of several values.
    Checks(fn(&mut Db) -> Result<Vec<Choice>>),
    /// A new password; what is left empty is not changed.
    Password,
}

impl<M> Field<M> {
    pub(super) fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }

    pub(super) fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub(super) fn guarded(mut self) -> Self {
        self.is_guarded = true;
        self
    }
}

/// Describes a field of a form that is a field of the struct.
macro_rules! field {
    ($model:ident.$name:ident, $label:literal, $widget:expr) => {
        Field::<$model> {
            name: stringify!($name),
            label: $label,
            help: "",
            widget: $widget,
            is_required: false,
            is_guarded: false,
            get: |row| serde_json::json!(row.$name),
            set: |row, entered| {
                row.$name = serde_json::from_value(entered.value())?;
                Ok(())
            },
        }
    };
}

/// Describes a column of a list that is a field of the struct, and a column of the table.
macro_rules! column {
    ($model:ident.$name:ident in $table:ident, $label:literal, $kind:expr) => {
        column!($model.$name in $table, $label, $kind, $table::$name)
    };
    ($model:ident.$name:ident in $table:ident, $label:literal, $kind:expr, $by:expr) => {
        Column::<$model> {
            name: stringify!($name),
            label: $label,
            kind: $kind,
            values: |_, rows| Ok(rows.iter().map(|row| serde_json::json!(row.$name)).collect()),
            // By the primary key at last, so that no row is on two pages.
            order: Some(|rows, descending| match descending {
                true => rows.order(($by.desc(), $table::id.desc())),
                false => rows.order(($by.asc(), $table::id.asc())),
            }),
        }
    };
}

pub(super) use {column, field};

/// A field of a form that links rows of another model.
pub(super) struct LinkField {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) help: &'static str,
    pub(super) is_guarded: bool,
    pub(super) choices: fn(&mut Db) -> Result<Vec<Choice>>,
    /// Returns the primary keys of what is linked.
    pub(super) load: fn(&mut Db, i64) -> Result<Vec<i64>>,
    /// Links these and no others.
    pub(super) store: fn(&mut Db, i64, &[i64]) -> Result<()>,
}

/// Something that is shown and not edited.
pub(super) enum Fact {
    Text(String),
    /// Milliseconds since 1970.
    Time(i64),
}

/// Something that is done with several rows at once, beside deleting them.
pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) run: fn(&mut Db, &[i64]) -> Result<usize>,
    /// What was done, for the message: `published`.
    pub(super) done: &'static str,
}

/// Makes the error by which [`ModelAdmin::before_save`] refuses a row.
pub(super) fn refusal(text: &str) -> Error {
    let mut invalid = Invalid::default();
    invalid.add(WHOLE_FORM, text);
    Error::Validation(invalid)
}

/// What else changes when a row is deleted.
#[derive(Debug, serde::Serialize)]
pub(super) struct Dependents {
    /// What happens to them: `These objects will be in no category`.
    pub(super) what: &'static str,
    /// The table that they are in, which is what permissions name.
    #[serde(skip)]
    pub(super) table: &'static str,
    /// The names of the first ones.
    pub(super) names: Vec<String>,
    /// How many more there are.
    pub(super) more: i64,
}

impl Dependents {
    /// Says what happens to so many rows, of which these are the first.
    pub(super) fn new<'m, M: Model>(what: &'static str, count: i64, first: impl IntoIterator<Item = &'m M>) -> Self {
        let names: Vec<String> = first.into_iter().map(M::label).collect();
        let more = count - i64::try_from(names.len()).unwrap_or(0);
        Dependents { what, table: M::TABLE, names, more }
    }
}
