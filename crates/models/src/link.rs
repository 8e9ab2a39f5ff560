//! Many-to-many links between two models, kept in a table of pairs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use diesel::QueryResult;
use larder_cache::dependencies::depends_on;

use crate::{
    db::{Connection, Db},
    error::{Error, Result},
    invalidation::{MAX_ROW_TAGS, scope_tag, table_tag, unknown_rows_tag},
    model::{BATCH, Model, announce},
    signals::LinksChanged,
};

/// A table of pairs: which rows of one model belong to which of another.
///
/// It is named with [`link!`](crate::link). Reads note what is being made here as depending on the links of that row, writes
/// invalidate those of the rows on both sides and send [`links_changed`](crate::Signals::links_changed).
///
/// # Examples
/// ```
/// use larder_models::{Database, Label, Link, Model, NewLabel, NewObject, Object, ObjectLabel, Signals};
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.migrate()?;
/// let names = database.write(|db| {
///     let pan = Object::insert(db, NewObject { title: "Jam pan".into(), ..NewObject::default() })?;
///     let copper = Label::insert(db, NewLabel { name: "copper".into() })?;
///     ObjectLabel::set(db, pan.id, &[copper.id])?;
///     let labels = ObjectLabel::rights(db, pan.id)?;
///     Ok(labels.into_iter().map(|label| label.name).collect::<Vec<_>>())
/// })?;
/// assert_eq!(names, ["copper"]);
/// # Ok::<(), larder_models::Error>(())
/// ```
pub trait Link: Clone + fmt::Debug + Send + Sync + Sized + 'static {
    /// What it is called in signals and log lines: `ObjectLabel`.
    const NAME: &'static str;
    /// Its table.
    const TABLE: &'static str;
    /// The column of the left side, and of the right one.
    const COLUMNS: (&'static str, &'static str);
    /// The model on the left side: the one whose forms offer the other one's rows.
    type Left: Model;
    /// The model on the right side.
    type Right: Model;

    /// Loads the pairs in which one of these rows is on that side, ordered.
    ///
    /// # Errors
    /// What the database says.
    fn select_pairs(side: Side, pks: &[i64], conn: &mut Connection) -> QueryResult<Vec<(i64, i64)>>;

    /// Loads all pairs, ordered.
    ///
    /// # Errors
    /// What the database says.
    fn select_all(conn: &mut Connection) -> QueryResult<Vec<(i64, i64)>>;

    /// Stores a pair unless it is there, and returns whether it was not.
    ///
    /// # Errors
    /// What the database says.
    fn insert_pair(pair: (i64, i64), conn: &mut Connection) -> QueryResult<bool>;

    /// Deletes a pair and returns whether it was there.
    ///
    /// # Errors
    /// What the database says.
    fn delete_pair(pair: (i64, i64), conn: &mut Connection) -> QueryResult<bool>;

    /// Loads what is linked to a row of the left side, ordered by primary key.
    ///
    /// # Errors
    /// What the database says.
    fn rights(db: &mut Db, left: i64) -> Result<Vec<Self::Right>> {
        Ok(Self::rights_of(db, [left])?.remove(&left).unwrap_or_default())
    }

    /// Loads what is linked to each of several rows of the left side, in two queries.
    ///
    /// # Errors
    /// What the database says.
    fn rights_of(db: &mut Db, lefts: impl IntoIterator<Item = i64>) -> Result<BTreeMap<i64, Vec<Self::Right>>> {
        let pairs = pairs::<Self>(db, Side::Left, lefts)?;
        let rights = Self::Right::find_many(db, pairs.iter().map(|pair| pair.1))?;
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for (left, right) in pairs {
            found.entry(left).or_default().extend(rights.get(&right).cloned());
        }
        Ok(found)
    }

    /// Returns the primary keys that are linked to a row of the left side, ordered.
    ///
    /// # Errors
    /// What the database says.
    fn right_pks(db: &mut Db, left: i64) -> Result<Vec<i64>> {
        Ok(pairs::<Self>(db, Side::Left, [left])?.into_iter().map(|pair| pair.1).collect())
    }

    /// Returns the primary keys that are linked to a row of the right side, ordered.
    ///
    /// # Errors
    /// What the database says.
    fn left_pks(db: &mut Db, right: i64) -> Result<Vec<i64>> {
        Ok(pairs::<Self>(db, Side::Right, [right])?.into_iter().map(|pair| pair.0).collect())
    }

    /// Returns all pairs, ordered. What is being made here depends on every write of the table.
    ///
    /// # Errors
    /// What the database says.
    fn all(db: &mut Db) -> Result<Vec<(i64, i64)>> {
        depends_on([table_tag(Self::TABLE)]);
        Ok(Self::select_all(db.conn())?)
    }

    /// Links a row of the left side to these of the right side and to no others; returns what that changed.
    ///
    /// # Errors
    /// [`Error::Refused`], and what the database says, as when a row is not there.
    fn set(db: &mut Db, left: i64, rights: &[i64]) -> Result<LinksChanged<Self>> {
        in_transaction(db, |db| {
            let wanted: BTreeSet<(i64, i64)> = rights.iter().map(|right| (left, *right)).collect();
            let there: BTreeSet<(i64, i64)> = Self::select_pairs(Side::Left, &[left], db.conn())?.into_iter().collect();
            change::<Self>(db, wanted.difference(&there), there.difference(&wanted))
        })
    }

    /// Links pairs of rows; returns what that changed.
    ///
    /// # Errors
    /// As [`Link::set`].
    fn add(db: &mut Db, pairs: &[(i64, i64)]) -> Result<LinksChanged<Self>> {
        in_transaction(db, |db| change::<Self>(db, pairs, &[]))
    }

    /// Takes links away; returns what that changed.
    ///
    /// # Errors
    /// [`Error::Refused`], and what the database says.
    fn remove(db: &mut Db, pairs: &[(i64, i64)]) -> Result<LinksChanged<Self>> {
        in_transaction(db, |db| change::<Self>(db, &[], pairs))
    }

    /// Takes all links of a row away, as its [`before_delete`](Model::before_delete) does.
    ///
    /// # Errors
    /// As [`Link::remove`].
    fn clear(db: &mut Db, side: Side, pk: i64) -> Result<LinksChanged<Self>> {
        in_transaction(db, |db| {
            let pairs = Self::select_pairs(side, &[pk], db.conn())?;
            change::<Self>(db, &[], &pairs)
        })
    }
}

/// A side of a [`Link`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first column.
    Left,
    /// The second column.
    Right,
}

/// Returns the tag of what shows the links of a row.
fn tag<L: Link>(side: Side, pk: i64) -> String {
    let column = if side == Side::Left { L::COLUMNS.0 } else { L::COLUMNS.1 };
    scope_tag(L::TABLE, &format!("{column}={pk}"))
}

fn pairs<L: Link>(db: &mut Db, side: Side, pks: impl IntoIterator<Item = i64>) -> Result<Vec<(i64, i64)>> {
    let pks: Vec<i64> = pks.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    if pks.len() <= MAX_ROW_TAGS {
        depends_on(pks.iter().map(|pk| tag::<L>(side, *pk)).chain([unknown_rows_tag(L::TABLE)]));
    } else {
        depends_on([table_tag(L::TABLE)]);
    }
    let mut pairs = Vec::new();
    for pks in pks.chunks(BATCH) {
        pairs.extend(L::select_pairs(side, pks, db.conn())?);
    }
    Ok(pairs)
}

fn in_transaction<L: Link>(
    db: &mut Db,
    change: impl FnOnce(&mut Db) -> Result<LinksChanged<L>>,
) -> Result<LinksChanged<L>> {
    if db.is_writable() { db.transaction(change) } else { Err(Error::ReadOnly { model: L::NAME }) }
}

fn change<'p, L: Link>(
    db: &mut Db,
    add: impl IntoIterator<Item = &'p (i64, i64)>,
    remove: impl IntoIterator<Item = &'p (i64, i64)>,
) -> Result<LinksChanged<L>> {
    let mut changed = LinksChanged { added: Vec::new(), removed: Vec::new(), link: PhantomData };
    db.quietly(|conn| {
        for pair in remove {
            if L::delete_pair(*pair, conn)? {
                changed.removed.push(*pair);
            }
        }
        for pair in add {
            if L::insert_pair(*pair, conn)? {
                changed.added.push(*pair);
            }
        }
        Ok(())
    })?;
    let both = || changed.added.iter().chain(&changed.removed);
    if both().next().is_some() {
        let of_sides = both().flat_map(|(left, right)| [tag::<L>(Side::Left, *left), tag::<L>(Side::Right, *right)]);
        let tags = of_sides.chain([table_tag(L::TABLE)]).collect();
        db.queue_rows(L::TABLE, changed.cause(), tags);
        announce(db, changed.clone())?;
    }
    Ok(changed)
}

/// Says how a [`Link`] is stored: in which table of diesel's, whose primary key are the two columns, and which models those
/// refer to. It stands in the `impl` of the link.
///
/// # Examples
/// ```
/// use larder_models::{Label, Link, Object};
///
/// diesel::table! {
///     object_maker (object_id, label_id) {
///         object_id -> BigInt,
///         label_id -> BigInt,
///     }
/// }
///
/// /// Which label is the maker's of an object.
/// #[derive(Debug, Clone)]
/// struct ObjectMaker;
///
/// impl Link for ObjectMaker {
///     larder_models::link!(ObjectMaker in object_maker, object_id -> Object, label_id -> Label);
/// }
///
/// assert_eq!(ObjectMaker::TABLE, "object_maker");
/// ```
#[macro_export]
macro_rules! link {
    ($link:ident in $table:ident, $left:ident -> $left_model:ty, $right:ident -> $right_model:ty $(,)?) => {
        const NAME: &'static str = stringify!($link);
        const TABLE: &'static str = stringify!($table);
        const COLUMNS: (&'static str, &'static str) = (stringify!($left), stringify!($right));
        type Left = $left_model;
        type Right = $right_model;

        fn select_pairs(
            side: $crate::Side,
            pks: &[i64],
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<(i64, i64)>> {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};
            let pairs = $table::table.order(($table::$left, $table::$right)).select(($table::$left, $table::$right));
            match side {
                $crate::Side::Left => pairs.filter($table::$left.eq_any(pks)).load(conn),
                $crate::Side::Right => pairs.filter($table::$right.eq_any(pks)).load(conn),
            }
        }

        fn select_all(conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<::std::vec::Vec<(i64, i64)>> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _};
            let pairs = $table::table.order(($table::$left, $table::$right)).select(($table::$left, $table::$right));
            pairs.load(conn)
        }

        fn insert_pair(pair: (i64, i64), conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<bool> {
            use $crate::diesel::{ExpressionMethods as _, RunQueryDsl as _};
            let values = ($table::$left.eq(pair.0), $table::$right.eq(pair.1));
            let insert = $crate::diesel::insert_into($table::table).values(values);
            Ok(match conn {
                $crate::Connection::Postgres(conn) => insert.on_conflict_do_nothing().execute(conn)?,
                $crate::Connection::Sqlite(conn) => insert.on_conflict_do_nothing().execute(conn)?,
            } > 0)
        }

        fn delete_pair(pair: (i64, i64), conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<bool> {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};
            let pair = $table::table.filter($table::$left.eq(pair.0)).filter($table::$right.eq(pair.1));
            Ok($crate::diesel::delete(pair).execute(conn)? > 0)
        }
    };
}
