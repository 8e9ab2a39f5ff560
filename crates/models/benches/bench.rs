//! What the hooks cost: a save by a model against the same statement by diesel alone, and reads that are noted for whatever
//! is being made against reads that are not.
//!
//! A round measures both sides of each line one after the other, and compares within the round, because machines are noisy.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]
#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made ends")]

use std::{env, hint::black_box, time::Instant};

use diesel::prelude::*;
use larder_cache::{Caches, dependencies::untracked};
use larder_models::{
    Category, Database, Db, Model, NewObject, Object, Result, Signals, schema::object, testing::PostgresServer,
};

/// How often each side is done in a slice; the sides take turns.
const TIMES: u32 = 50;

/// How many slices a round has.
const SLICES: u32 = 20;

/// How many rows a list has.
const ROWS: usize = 20;

fn main() {
    let rounds = env::var("LARDER_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5_usize).max(1);
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite://{}/bench.sqlite3", folder.path().display());
    let server = PostgresServer::start();
    println!("| as a share of diesel's speed alone | min | median | max |");
    println!("| --- | ---: | ---: | ---: |");
    for (name, url) in [("SQLite", sqlite), ("PostgreSQL", server.new_database())] {
        let site = Site::open(&url);
        site.line(
            rounds,
            &format!("save with version, signals, outbox and invalidation, {name}"),
            Site::save,
            Site::save_plain,
        );
        site.line(rounds, &format!("the same, ten in a transaction, {name}"), Site::save_ten, Site::save_ten_plain);
        site.line(
            rounds,
            &format!("read of one row, noted, {name}"),
            |site| site.noted(Site::row),
            |site| site.unnoted(Site::row),
        );
        site.line(
            rounds,
            &format!("read of {ROWS} rows with their categories, noted, {name}"),
            |site| site.noted(Site::list),
            |site| site.unnoted(Site::list),
        );
    }
}

/// A database whose writes invalidate in a cache, and the same one without.
struct Site {
    database: Database,
    plain: Database,
    caches: Caches,
    pk: i64,
    pks: Vec<i64>,
}

impl Site {
    fn open(url: &str) -> Self {
        let caches = Caches::local();
        let database = Database::open(url, Signals::new()).unwrap().with_caches(&caches);
        database.migrate().unwrap();
        let new = |number| NewObject { title: format!("Object {number}"), published: true, ..NewObject::default() };
        let objects = database.write(|db| Object::bulk_insert(db, (0..ROWS).map(new))).unwrap();
        let pks: Vec<i64> = objects.iter().map(Model::pk).collect();
        let plain = Database::open(url, Signals::new()).unwrap();
        Site { database, plain, caches, pk: pks[0], pks }
    }

    /// Prints how fast the first is, the second being 1.
    fn line(&self, rounds: usize, name: &str, ours: impl Fn(&Site), plain: impl Fn(&Site)) {
        let mut share = |_| {
            let (mut of_ours, mut of_plain) = (0.0, 0.0);
            for _ in 0..SLICES {
                of_plain += seconds(|| plain(self));
                of_ours += seconds(|| ours(self));
            }
            of_plain / of_ours
        };
        // The first round fills caches.
        let mut shares: Vec<f64> = (0..=rounds).map(&mut share).skip(1).collect();
        shares.sort_by(f64::total_cmp);
        println!("| {name} | {:.2} | {:.2} | {:.2} |", shares[0], shares[shares.len() / 2], shares[shares.len() - 1]);
    }

    fn save(&self) {
        let mut object = self.database.read(|db| Object::get(db, self.pk)).unwrap();
        for _ in 0..TIMES {
            object.body.clear();
            self.database.write(|db| object.save(db)).unwrap();
        }
    }

    fn save_plain(&self) {
        let mut object = self.plain.read(|db| Object::get(db, self.pk)).unwrap();
        for _ in 0..TIMES {
            object.body.clear();
            self.plain.write(|db| save_plain(db, &mut object)).unwrap();
        }
    }

    fn save_ten(&self) {
        let mut objects = self.ten();
        for _ in 0..TIMES / 10 {
            self.database.write(|db| objects.iter_mut().try_for_each(|object| object.save(db).map(drop))).unwrap();
        }
    }

    fn save_ten_plain(&self) {
        let mut objects = self.ten();
        for _ in 0..TIMES / 10 {
            self.plain.write(|db| objects.iter_mut().try_for_each(|object| save_plain(db, object))).unwrap();
        }
    }

    fn ten(&self) -> Vec<Object> {
        self.plain.read(|db| Object::find_many(db, self.pks[..10].iter().copied())).unwrap().into_values().collect()
    }

    /// Does something as the loader of a cached value does.
    fn noted(&self, read: fn(&Site, &mut Db) -> Result<()>) {
        let cache = self.caches.default_cache().blocking();
        cache.delete("noted").unwrap();
        let load = || {
            (0..TIMES).try_for_each(|_| self.database.read(|db| read(self, db)))?;
            Ok::<_, larder_models::Error>(1)
        };
        cache.get_or_set("noted", 600, load).unwrap();
    }

    fn unnoted(&self, read: fn(&Site, &mut Db) -> Result<()>) {
        untracked(|| (0..TIMES).try_for_each(|_| self.database.read(|db| read(self, db)))).unwrap();
    }

    fn row(&self, db: &mut Db) -> Result<()> {
        black_box(Object::find(db, self.pk)?);
        Ok(())
    }

    fn list(&self, db: &mut Db) -> Result<()> {
        let objects = black_box(Object::published(db)?);
        black_box(Category::find_many(db, objects.iter().filter_map(|object| object.category_id))?);
        Ok(())
    }
}

fn seconds(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_secs_f64()
}

/// Does what a careful hand would write with diesel alone: the version is compared and counted up.
fn save_plain(db: &mut Db, row: &mut Object) -> Result<()> {
    let seen = object::table.find(row.id).filter(object::version.eq(row.version));
    row.version += 1;
    row.updated = db.now().as_millisecond();
    assert_eq!(diesel::update(seen).set(&*row).execute(db.conn())?, 1);
    Ok(())
}
