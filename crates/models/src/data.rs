//! Rows as JSON, to carry a database's content elsewhere.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use diesel::{RunQueryDsl, sql_query};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    category::Category,
    db::{Connection, Db},
    error::{Error, Result, Source},
    label::{Label, ObjectLabel},
    link::Link,
    log_entry::Action,
    model::{BATCH, Lock, Model, bulk_changed},
    object::Object,
};

/// The name of the primary key among the fields of a row.
const PK: &str = "id";

/// A row: `{"model": "object", "pk": 7, "fields": {"title": "Crock", …}}`. A pair of linked rows has no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The table of the model or link.
    pub model: Cow<'static, str>,
    /// The primary key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pk: Option<i64>,
    /// The columns, but for the primary key.
    pub fields: Map<String, Value>,
}

/// The models and links that are dumped and loaded, those that others refer to first.
///
/// # Examples
/// ```
/// use larder_models::{Data, Database, Model, Object, Signals, sample};
///
/// let (data, open) = (Data::collection(), || Database::open("sqlite::memory:", Signals::new()));
/// let (old, new) = (open()?, open()?);
/// old.migrate()?;
/// old.write(sample::load)?;
/// let records = old.read(|db| data.dump(db, &[]))?;
/// let json = serde_json::to_string(&records)?;
///
/// new.migrate()?;
/// new.write(|db| data.load(db, serde_json::from_str(&json).unwrap()))?;
/// assert_eq!(new.read(|db| data.dump(db, &[]))?, records);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Data {
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    name: &'static str,
    dump: fn(&mut Db) -> Result<Vec<Record>>,
    load: fn(&mut Db, Vec<Record>) -> Result<()>,
}

impl Data {
    /// Makes an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the list of what the collection consists of: categories, labels, objects and which have which.
    pub fn collection() -> Self {
        Data::new().model::<Category>().model::<Label>().model::<Object>().link::<ObjectLabel>()
    }

    /// Adds a model.
    #[must_use]
    pub fn model<M: Model + Serialize + DeserializeOwned>(mut self) -> Self {
        self.tables.push(Table { name: M::TABLE, dump: dump_rows::<M>, load: load_rows::<M> });
        self
    }

    /// Adds a link.
    #[must_use]
    pub fn link<L: Link>(mut self) -> Self {
        self.tables.push(Table { name: L::TABLE, dump: dump_pairs::<L>, load: load_pairs::<L> });
        self
    }

    /// Returns the names that [`dump`](Self::dump) takes.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.tables.iter().map(|table| table.name)
    }

    /// Reads all rows, or those of some models only, as they were at one moment.
    ///
    /// # Errors
    /// [`Error::Data`] if there is no such model, and what the database says.
    pub fn dump(&self, db: &mut Db, only: &[&str]) -> Result<Vec<Record>> {
        if let Some(unknown) = only.iter().find(|name| !self.names().any(|known| known == **name)) {
            return Err(self.unknown(unknown));
        }
        db.transaction(|db| {
            let tables = self.tables.iter().filter(|table| only.is_empty() || only.contains(&table.name));
            tables.map(|table| (table.dump)(db)).collect::<Result<Vec<_>>>().map(|records| records.concat())
        })
    }

    /// Stores rows under the keys they have, in place of those that are there under these keys, and returns how many they
    /// were. Others stay. They may come in any order; each is validated, and of the signals
    /// [`bulk_changed`](crate::Signals::bulk_changed) and [`links_changed`](crate::Signals::links_changed) are sent.
    ///
    /// # Errors
    /// [`Error::Data`] names the row that cannot be read or stored. Then none is stored.
    pub fn load(&self, db: &mut Db, records: Vec<Record>) -> Result<usize> {
        let count = records.len();
        let mut by_table = BTreeMap::<Cow<'static, str>, Vec<Record>>::new();
        for record in records {
            by_table.entry(record.model.clone()).or_default().push(record);
        }
        db.transaction(|db| {
            for table in &self.tables {
                if let Some(records) = by_table.remove(table.name) {
                    (table.load)(db, records)?;
                }
            }
            match by_table.keys().next() {
                Some(unknown) => Err(self.unknown(unknown)),
                None => Ok(count),
            }
        })
    }

    fn unknown(&self, name: &str) -> Error {
        let known = self.names().collect::<Vec<_>>().join(", ");
        failed(name, format!("there is no such model; there are {known}"))
    }
}

fn failed(record: impl Into<String>, source: impl Into<Source>) -> Error {
    Error::Data { record: record.into(), source: source.into() }
}

fn dump_rows<M: Model + Serialize>(db: &mut Db) -> Result<Vec<Record>> {
    let mut rows = M::list(db, |rows| rows)?;
    rows.sort_by_key(M::pk);
    let record = |row: M| {
        let pk = row.pk();
        let named = || format!("{} {pk}", M::TABLE);
        let mut fields = match serde_json::to_value(row) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(failed(named(), "it is not serialized with the names of its fields")),
            Err(error) => return Err(failed(named(), error)),
        };
        fields.remove(PK);
        Ok(Record { model: M::TABLE.into(), pk: Some(pk), fields })
    };
    rows.into_iter().map(record).collect()
}

fn load_rows<M: Model + DeserializeOwned>(db: &mut Db, records: Vec<Record>) -> Result<()> {
    let mut rows = BTreeMap::new();
    for record in records {
        let Some(pk) = record.pk.filter(|pk| *pk > 0) else {
            return Err(failed(M::TABLE, "a row has no pk; it is a number from 1"));
        };
        let named = || format!("{} {pk}", M::TABLE);
        let mut fields = record.fields;
        fields.insert(PK.to_owned(), pk.into());
        let row: M = serde_json::from_value(Value::Object(fields)).map_err(|error| failed(named(), error))?;
        row.validate().map_err(|invalid| failed(named(), Error::from(invalid)))?;
        if rows.insert(pk, row).is_some() {
            return Err(failed(named(), "it is there twice"));
        }
    }
    let pks: Vec<i64> = rows.keys().copied().collect();
    let mut old = BTreeMap::new();
    for pks in pks.chunks(BATCH) {
        old.extend(M::lock_rows(pks, Lock::Change, db.conn())?.into_iter().map(|row| (row.pk(), row)));
    }
    for (pk, row) in &rows {
        let stored = db.quietly(|conn| match old.get(pk) {
            Some(_) => row.overwrite_row(conn),
            None => row.insert_row_as_is(conn),
        });
        stored.map_err(|error| failed(format!("{} {pk}", M::TABLE), Error::from(error)))?;
    }
    db.quietly(|conn| skip_keys::<M>(conn))?;
    let (changed, added): (Vec<M>, Vec<M>) = rows.into_values().partition(|row| old.contains_key(&row.pk()));
    let old: Vec<M> = old.into_values().collect();
    bulk_changed::<M>(db, Action::Changed, &old, &changed)?;
    bulk_changed::<M>(db, Action::Added, &[], &added)
}

/// Lets new rows have keys beyond those that were given by hand. SQLite does so by itself.
fn skip_keys<M: Model>(conn: &mut Connection) -> diesel::QueryResult<()> {
    if let Connection::Postgres(conn) = conn {
        let table = M::TABLE;
        // Never back: the key of a deleted row is not given again.
        let skip = format!(
            "SELECT setval(sequence, greatest((SELECT max({PK}) FROM \"{table}\"), nextval(sequence))) \
             FROM (SELECT pg_get_serial_sequence('\"{table}\"', '{PK}')::regclass AS sequence) AS of_table"
        );
        sql_query(skip).execute(conn)?;
    }
    Ok(())
}

fn dump_pairs<L: Link>(db: &mut Db) -> Result<Vec<Record>> {
    let (left, right) = L::COLUMNS;
    let record = |(left_pk, right_pk): (i64, i64)| {
        let fields = [(left.to_owned(), left_pk.into()), (right.to_owned(), right_pk.into())];
        Record { model: L::TABLE.into(), pk: None, fields: fields.into_iter().collect() }
    };
    Ok(L::all(db)?.into_iter().map(record).collect())
}

fn load_pairs<L: Link>(db: &mut Db, records: Vec<Record>) -> Result<()> {
    let (left, right) = L::COLUMNS;
    let mut pairs = BTreeSet::new();
    for record in records {
        let pk = |column| record.fields.get(column).and_then(Value::as_i64);
        let (Some(left_pk), Some(right_pk)) = (pk(left), pk(right)) else {
            return Err(failed(L::TABLE, format!("a row lacks {left} or {right}")));
        };
        pairs.insert((left_pk, right_pk));
    }
    let pairs: Vec<(i64, i64)> = pairs.into_iter().collect();
    L::add(db, &pairs).map(drop).map_err(|error| failed(L::TABLE, error))
}
