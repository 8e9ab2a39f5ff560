//! The macro that says how a model is stored.

/// Says how a [`Model`](crate::Model) is stored: in which table of diesel's, and which columns people edit. It stands in the
/// `impl` of the model and gives it its name, its statements and its list of fields.
///
/// The struct derives diesel's `Queryable`, `Selectable`, `Insertable` and `AsChangeset`; its primary key is an `i64` named
/// `id` that is not inserted. The module that diesel makes is called like the table, without `#[sql_name]`. Columns in `secret` are told in the history without their values. With `version = column`, a save
/// is refused if somebody else has saved the row since it was loaded; [`Model::stamp`](crate::Model::stamp) must then count
/// that column up.
///
/// # Examples
/// ```
/// use diesel::{connection::SimpleConnection, prelude::*};
/// use larder_models::{Database, Invalid, Model, Signals};
///
/// diesel::table! {
///     shelf (id) {
///         id -> BigInt,
///         name -> Text,
///         version -> BigInt,
///     }
/// }
///
/// #[derive(Debug, Clone, Queryable, Selectable, Insertable, AsChangeset)]
/// #[diesel(table_name = shelf)]
/// struct Shelf {
///     #[diesel(skip_insertion)]
///     id: i64,
///     name: String,
///     version: i64,
/// }
///
/// impl Model for Shelf {
///     larder_models::row!(Shelf in shelf, fields = [name], version = version);
///     type New = String;
///
///     fn draft(name: String, _now: jiff::Timestamp) -> Self {
///         Shelf { id: 0, name, version: 1 }
///     }
///
///     fn stamp(&mut self, _now: jiff::Timestamp) {
///         self.version += 1;
///     }
/// }
///
/// let database = Database::open("sqlite::memory:", Signals::new())?;
/// database.write(|db| {
///     let create = "CREATE TABLE shelf (id INTEGER PRIMARY KEY, name TEXT NOT NULL, version BIGINT NOT NULL)";
///     Ok(db.conn().batch_execute(create)?)
/// })?;
/// let mut shelf = database.write(|db| Shelf::insert(db, "Top".into()))?;
/// shelf.name = "Top left".into();
/// assert_eq!(database.write(|db| shelf.save(db))?[0].field, "name");
/// let named = |rows: <Shelf as Model>::Rows| rows.filter(shelf::name.like("Top%"));
/// assert_eq!(database.read(|db| Shelf::list(db, named))?[0].id, shelf.id);
/// # Ok::<(), larder_models::Error>(())
/// ```
#[macro_export]
macro_rules! row {
    (
        $model:ident in $table:ident, fields = [$($field:ident),* $(,)?]
        $(, secret = [$($secret:ident),* $(,)?])?
        $(, version = $version:ident)? $(,)?
    ) => {
        const NAME: &'static str = stringify!($model);
        const TABLE: &'static str = stringify!($table);
        type Rows = $table::BoxedQuery<'static, $crate::Backend>;

        fn rows() -> Self::Rows {
            $crate::diesel::QueryDsl::into_boxed($table::table)
        }

        fn load_rows(
            rows: Self::Rows,
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<Self>> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _, SelectableHelper as _};
            rows.select(Self::as_select()).load(conn)
        }

        fn count_rows(rows: Self::Rows, conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<i64> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _};
            rows.count().get_result(conn)
        }

        fn pk(&self) -> i64 {
            self.id
        }

        fn set_pk(&mut self, pk: i64) {
            self.id = pk;
        }

        fn fields(&self) -> ::std::vec::Vec<$crate::Field> {
            ::std::vec![
                $($crate::Field::new(stringify!($field), ::std::clone::Clone::clone(&self.$field)),)*
                $($($crate::Field::secret(stringify!($secret), ::std::clone::Clone::clone(&self.$secret)),)*)?
            ]
        }

        fn select_rows(
            pks: &[i64],
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<Self>> {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _, SelectableHelper as _};
            $table::table.filter($table::id.eq_any(pks)).select(Self::as_select()).load(conn)
        }

        fn select_row(
            conn: &mut $crate::Connection,
            pk: i64,
        ) -> $crate::diesel::QueryResult<::std::option::Option<Self>> {
            use $crate::diesel::{OptionalExtension as _, QueryDsl as _, RunQueryDsl as _, SelectableHelper as _};
            $table::table.find(pk).select(Self::as_select()).first(conn).optional()
        }

        fn among(rows: Self::Rows, pks: &[i64]) -> Self::Rows {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _};
            rows.filter($table::id.eq_any(pks.to_vec()))
        }

        fn cut_rows(rows: Self::Rows, limit: i64, offset: i64) -> Self::Rows {
            use $crate::diesel::QueryDsl as _;
            rows.limit(limit).offset(offset)
        }

        fn select_pks(
            rows: Self::Rows,
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<i64>> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _};
            rows.select($table::id).load(conn)
        }

        fn lock_rows(
            pks: &[i64],
            lock: $crate::Lock,
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<Self>> {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _, SelectableHelper as _};
            let rows = $table::table.filter($table::id.eq_any(pks)).order($table::id);
            match conn {
                $crate::Connection::Postgres(conn) => match lock {
                    $crate::Lock::Change => rows.select(Self::as_select()).for_no_key_update().load(conn),
                    $crate::Lock::Delete => rows.select(Self::as_select()).for_update().load(conn),
                },
                // The whole database is locked.
                $crate::Connection::Sqlite(conn) => rows.select(Self::as_select()).load(conn),
            }
        }

        fn insert_row(&self, conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<i64> {
            use $crate::diesel::RunQueryDsl as _;
            $crate::diesel::insert_into($table::table).values(self).returning($table::id).get_result(conn)
        }

        fn insert_row_as_is(&self, conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<()> {
            use $crate::diesel::RunQueryDsl as _;
            let row = ($crate::diesel::ExpressionMethods::eq($table::id, self.id), self);
            $crate::diesel::insert_into($table::table).values(row).execute(conn).map(drop)
        }

        fn insert_rows(
            rows: &[Self],
            conn: &mut $crate::Connection,
        ) -> $crate::diesel::QueryResult<::std::vec::Vec<i64>> {
            use $crate::diesel::RunQueryDsl as _;
            match conn {
                $crate::Connection::Postgres(conn) => {
                    $crate::diesel::insert_into($table::table).values(rows).returning($table::id).get_results(conn)
                }
                // There is no way to the server to be saved.
                conn => rows.iter().map(|row| row.insert_row(conn)).collect(),
            }
        }

        fn update_row(&self, _seen: &Self, conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<usize> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _};
            $(if self.$version == _seen.$version {
                return Err($crate::diesel::result::Error::QueryBuilderError(
                    concat!("Model::stamp of ", stringify!($model), " must count up ", stringify!($version)).into(),
                ));
            })?
            let row = $table::table.find(self.id);
            $(let row = row.filter($crate::diesel::ExpressionMethods::eq($table::$version, _seen.$version));)?
            $crate::diesel::update(row).set(self).execute(conn)
        }

        fn overwrite_row(&self, conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<()> {
            use $crate::diesel::{QueryDsl as _, RunQueryDsl as _};
            $crate::diesel::update($table::table.find(self.id)).set(self).execute(conn).map(drop)
        }

        fn delete_rows(pks: &[i64], conn: &mut $crate::Connection) -> $crate::diesel::QueryResult<usize> {
            use $crate::diesel::{ExpressionMethods as _, QueryDsl as _, RunQueryDsl as _};
            $crate::diesel::delete($table::table.filter($table::id.eq_any(pks))).execute(conn)
        }
    };
}
