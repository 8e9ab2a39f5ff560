//! Several rows at once, categories and labels: what is signalled, and what is stale.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use diesel::prelude::*;
use larder_cache::{BlockingCache, Caches};
use larder_models::{
    Action, Category, Database, Db, Error, Label, Link, Model, NewCategory, NewLabel, NewObject, Object, ObjectLabel,
    Result, Side, Signals,
    schema::{label, object},
};

use super::{
    Journal, database, database_with, insert,
    invalidation::{connected, default},
};

type Rows = <Object as Model>::Rows;

/// A small site: two categories, two labels, three objects, and entries made from them.
struct Site {
    database: Database,
    cache: BlockingCache,
    _caches: Caches,
    categories: Vec<Category>,
    labels: Vec<Label>,
    objects: Vec<Object>,
}

/// What the entries show: the first two objects are in the first category and have the first label, the third one is in the
/// second, has the second and is not published.
const ENTRIES: [&str; 10] = [
    "count",
    "published",
    "object 1",
    "object 3",
    "in category 1",
    "in category 2",
    "category 1",
    "labels of object 1",
    "labels of object 3",
    "with label 1",
];

impl Site {
    fn new() -> Self {
        let (database, caches) = connected();
        let (categories, labels, objects) = database
            .write(|db| {
                let categories =
                    Category::bulk_insert(db, ["Pans", "Jars"].map(|name| NewCategory { name: name.into() }))?;
                let labels = Label::bulk_insert(db, ["copper", "glass"].map(|name| NewLabel { name: name.into() }))?;
                let new = |title: &str, category: usize, published| NewObject {
                    title: title.to_owned(),
                    body: String::new(),
                    published,
                    category_id: Some(categories[category].id),
                };
                let objects =
                    Object::bulk_insert(db, [new("Jam pan", 0, true), new("Skillet", 0, true), new("Jar", 1, false)])?;
                let [first, second, third] = [0, 1, 2].map(|at: usize| objects[at].id);
                ObjectLabel::add(db, &[(first, labels[0].id), (second, labels[0].id), (third, labels[1].id)])?;
                Ok((categories, labels, objects))
            })
            .unwrap();
        Site { cache: default(&caches), _caches: caches, database, categories, labels, objects }
    }

    /// Makes an entry, as a page would: with the name of the category and the labels.
    fn show(&self, db: &mut Db, entry: &str) -> Result<String> {
        let pk = |number: &str, pks: Vec<i64>| pks[number.parse::<usize>().unwrap() - 1];
        let objects = || self.objects.iter().map(Object::pk).collect();
        let categories = || self.categories.iter().map(Category::pk).collect();
        let titles =
            |objects: Vec<Object>| objects.into_iter().map(|object| object.title).collect::<Vec<_>>().join(", ");
        let (what, number) = entry.rsplit_once(' ').unwrap_or((entry, ""));
        Ok(match what {
            "count" => Object::count(db)?.to_string(),
            "published" => titles(Object::published(db)?),
            "object" => {
                let object = Object::find(db, pk(number, objects()))?;
                let category = object.as_ref().and_then(|object| object.category_id);
                let category = category.map(|id| Category::get(db, id)).transpose()?;
                format!("{:?} in {:?}", object.map(|object| object.title), category.map(|category| category.name))
            }
            "in category" => titles(Object::published_in(db, pk(number, categories()))?),
            "category" => format!("{:?}", Category::find(db, pk(number, categories()))?),
            "labels of object" => format!("{:?}", ObjectLabel::rights(db, pk(number, objects()))?),
            "with label" => titles(Object::published_with(db, self.labels[0].id)?),
            other => unreachable!("{other}"),
        })
    }

    /// Returns which entries a write takes away, after it has made sure that the others are as they would be made now.
    #[track_caller]
    fn gone<T>(&self, write: impl FnOnce(&mut Db) -> Result<T>) -> Vec<&'static str> {
        for entry in ENTRIES {
            self.cache.get_or_set(entry, 600, || self.database.read(|db| self.show(db, entry))).unwrap();
        }
        self.database.write(write).unwrap();
        let (kept, gone): (Vec<_>, Vec<_>) = ENTRIES.into_iter().partition(|entry| self.cache.has_key(*entry).unwrap());
        for entry in kept {
            let now = self.database.read(|db| self.show(db, entry)).unwrap();
            assert_eq!(self.cache.get::<String>(entry).unwrap(), Some(now), "{entry}");
        }
        gone
    }
}

#[test]
fn a_category_takes_along_what_shows_its_name() {
    let site = Site::new();
    let mut first = site.categories[0].clone();
    first.name = "Pots".to_owned();
    assert_eq!(site.gone(move |db| first.save(db)), ["object 1", "category 1"]);
    let gone = site.gone(|db| Category::get(db, site.categories[0].id)?.delete(db));
    assert_eq!(gone, ["count", "published", "object 1", "in category 1", "category 1", "with label 1"]);
    let objects = site.database.read(|db| Object::list(db, |rows| rows.order(object::id))).unwrap();
    assert_eq!(
        objects.iter().map(|object| object.category_id).collect::<Vec<_>>(),
        [None, None, Some(site.categories[1].id)]
    );
    assert_eq!(objects.iter().map(|object| object.version).collect::<Vec<_>>(), [2, 2, 1], "who edits one is told");
}

#[test]
fn labels_take_along_what_shows_them() {
    let site = Site::new();
    let [copper, glass] = [0, 1].map(|at: usize| site.labels[at].id);
    let [first, third] = [0, 2].map(|at: usize| site.objects[at].id);
    assert_eq!(site.gone(|db| ObjectLabel::set(db, first, &[copper])), [""; 0], "nothing was changed");
    assert_eq!(site.gone(|db| ObjectLabel::set(db, first, &[glass, copper])), ["labels of object 1"]);
    assert_eq!(site.gone(|db| ObjectLabel::set(db, first, &[glass])), ["labels of object 1", "with label 1"]);
    assert_eq!(site.gone(|db| ObjectLabel::add(db, &[(third, copper)])), ["labels of object 3", "with label 1"]);
    let mut renamed = site.labels[1].clone();
    renamed.name = "pressed glass".to_owned();
    assert_eq!(site.gone(move |db| renamed.save(db)), ["labels of object 1", "labels of object 3"]);
    assert_eq!(
        site.gone(|db| Label::get(db, copper)?.delete(db)),
        ["labels of object 3", "with label 1"],
        "those that had it"
    );
    assert_eq!(site.gone(|db| Object::get(db, third)?.delete(db)), ["count", "object 3", "labels of object 3"]);
}

#[test]
fn writes_of_several_rows_take_away_what_showed_them() {
    let site = Site::new();
    let retitle = |rows: Rows, category: usize| rows.filter(object::category_id.eq(site.categories[category].id));
    let set_body = |pks: &[i64], conn: &mut larder_models::Connection| {
        diesel::update(object::table.filter(object::id.eq_any(pks))).set(object::body.eq("New")).execute(conn)
    };
    assert_eq!(site.gone(|db| Object::update_where(db, |rows| retitle(rows, 1), set_body)), ["count", "object 3"]);
    assert_eq!(
        site.gone(|db| Object::update_where(db, |rows| retitle(rows, 0), set_body)),
        ["count", "published", "object 1", "in category 1", "with label 1"]
    );
    let move_all = |pks: &[i64], conn: &mut larder_models::Connection| {
        let row = object::table.filter(object::id.eq_any(pks));
        diesel::update(row).set(object::category_id.eq(site.categories[1].id)).execute(conn)
    };
    assert_eq!(
        site.gone(|db| Object::update_where(db, |rows| retitle(rows, 0), move_all)),
        ["count", "published", "object 1", "in category 1", "in category 2", "with label 1"],
        "the lists they were in and those they are in"
    );
    let mut objects = site.database.read(|db| Object::list(db, |rows| rows.order(object::id))).unwrap();
    objects.remove(0);
    assert_eq!(
        site.gone(|db| Object::bulk_update(db, &mut objects)),
        ["count", "published", "object 3", "in category 2", "with label 1"]
    );
    assert_eq!(
        site.gone(|db| Object::delete_where(db, |rows| rows.filter(object::published.eq(false)))),
        ["count", "object 3", "labels of object 3"]
    );
    let nothing = site.gone(|db| Object::delete_where(db, |rows| rows.filter(object::published.eq(false))));
    assert_eq!(nothing, [""; 0]);
}

#[test]
fn very_many_rows_are_all_rows() {
    let site = Site::new();
    let many = || (0..1_100).map(|number| NewLabel { name: format!("label {number}") });
    let gone = site.gone(|db| Label::bulk_insert(db, many()));
    assert_eq!(gone, ["labels of object 1", "labels of object 3"], "that show some label");
    let rows = |rows: <Label as Model>::Rows| rows.filter(label::name.like("label %"));
    assert_eq!(site.database.write(|db| Label::delete_where(db, rows)).unwrap(), 1_100);
}

#[test]
fn more_rows_than_a_statement_takes_are_written() {
    let database = database();
    let new = || (0..2_500).map(|number| NewLabel { name: format!("label {number}") });
    let stored = database.write(|db| Label::bulk_insert(db, new())).unwrap();
    assert_eq!(stored.len(), 2_500);
    let found = database.read(|db| Label::find_many(db, stored.iter().map(Label::pk))).unwrap();
    assert_eq!(found, stored.iter().map(|label| (label.id, label.clone())).collect::<BTreeMap<_, _>>());
    let mut calls = 0;
    let count = database
        .write(|db| {
            Label::update_where(
                db,
                |rows| rows,
                |pks, conn| {
                    calls += 1;
                    let row = label::table.filter(label::id.eq_any(pks));
                    diesel::update(row).set(label::version.eq(label::version + 1)).execute(conn)
                },
            )
        })
        .unwrap();
    assert_eq!((count, calls), (2_500, 3));
    assert_eq!(database.write(|db| Label::delete_where(db, |rows| rows)).unwrap(), 2_500);
}

#[test]
fn nothing_is_stored_of_several_if_one_cannot_be() {
    let database = database();
    let of = |names: &[&str]| names.iter().map(|name| NewLabel { name: (*name).to_owned() }).collect::<Vec<_>>();
    let doubled = database.write(|db| Label::bulk_insert(db, of(&["copper", "copper"])));
    assert!(matches!(doubled, Err(Error::Unique { .. })), "{doubled:?}");
    let empty = database.write(|db| Label::bulk_insert(db, of(&["glass", ""])));
    assert!(matches!(empty, Err(Error::Validation(_))), "{empty:?}");
    assert_eq!(database.read(Label::count).unwrap(), 0);

    let mut labels = database.write(|db| Label::bulk_insert(db, of(&["copper", "glass"]))).unwrap();
    let mut same = labels[1].clone();
    database.write(|db| same.save(db)).unwrap();
    labels.iter_mut().for_each(|label| label.name.push('!'));
    let before = labels.clone();
    let late = database.write(|db| Label::bulk_update(db, &mut labels));
    assert!(matches!(late, Err(Error::Conflict { id, .. }) if id == same.id), "{late:?}");
    assert_eq!(labels, before);
    assert_eq!(
        database.read(Label::all).unwrap().iter().map(|label| &*label.name).collect::<Vec<_>>(),
        ["copper", "glass"]
    );
    let missing = database.write(|db| {
        Label::get(db, same.id)?.delete(db)?;
        Label::bulk_update(db, &mut labels[1..])
    });
    assert!(matches!(missing, Err(Error::NotFound { .. })), "{missing:?}");
    let reading = database.read(|db| Label::bulk_insert(db, of(&["iron"])));
    assert!(matches!(reading, Err(Error::ReadOnly { .. })), "{reading:?}");
}

#[test]
fn writes_of_several_rows_are_announced_once_after_the_commit() {
    let signals = Signals::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let events = Arc::clone(&heard);
    signals.bulk_changed::<Object>("several", move |event| {
        events.lock().unwrap().push((event.action, event.pks.len(), event.cause()));
        Ok(())
    });
    let journal = Journal::default();
    let lines = journal.clone();
    signals.links_changed::<ObjectLabel>("links", move |event| {
        lines.write(event.cause());
        Ok(())
    });
    signals.post_save::<Object>("one", |_| panic!("this is for single saves"));
    signals.post_delete::<Object>("one", |_| panic!("this is for single deletes"));
    let database = database_with(signals.clone());
    let new = |title: &str| NewObject { title: title.to_owned(), ..NewObject::default() };
    let objects = database.write(|db| Object::bulk_insert(db, [new("Pan"), new("Jar")])).unwrap();
    let copper = database.write(|db| Label::insert(db, NewLabel { name: "copper".into() })).unwrap();
    let linked = database.write(|db| ObjectLabel::set(db, objects[0].id, &[copper.id])).unwrap();
    assert_eq!((linked.added, linked.removed), (vec![(objects[0].id, copper.id)], Vec::new()));
    let refused = database.write(|db| {
        Object::delete_where(db, |rows| rows)?;
        Err::<(), _>(Error::abort("not now"))
    });
    assert!(refused.is_err());
    assert_eq!(database.write(|db| Object::delete_where(db, |rows| rows)).unwrap(), 2);
    assert_eq!(
        journal.take(),
        ["links_changed ObjectLabel (1 added, 0 removed)", "links_changed ObjectLabel (0 added, 1 removed)"]
    );
    assert_eq!(
        *heard.lock().unwrap(),
        [
            (Action::Added, 2, "bulk_changed Object (2 rows)".to_owned()),
            (Action::Deleted, 2, "bulk_changed Object (2 rows)".to_owned())
        ]
    );
    assert_eq!(signals.failures(), 0);
}

#[test]
fn strict_receivers_are_part_of_the_write() {
    let signals = Signals::new();
    signals.post_save_strict::<Object>("audit", |db, event| {
        // It sees what was written, and what it writes goes along.
        assert_eq!(Object::get(db, event.object.id)?.title, event.object.title);
        Label::insert(db, NewLabel { name: format!("audit {}", event.object.title) })?;
        if event.object.title.contains("bad") { Err("no bad titles".into()) } else { Ok(()) }
    });
    signals.post_delete_strict::<Object>("keep", |_, _| Err("nothing is deleted".into()));
    signals.bulk_changed_strict::<Object>(
        "few",
        |_, event| if event.pks.len() > 1 { Err("too many".into()) } else { Ok(()) },
    );
    signals.links_changed_strict::<ObjectLabel>("none", |_, _| Err("no links".into()));
    let database = database_with(signals.clone());
    let pan = database.write(|db| insert(db, "Pan")).unwrap();
    let refused = |result: Result<()>| match result {
        Err(Error::Refused { cause, receiver, source }) => format!("{cause}, {receiver}: {source}"),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refused(database.write(|db| insert(db, "bad").map(drop))),
        format!("post_save Object#{}, audit: no bad titles", pan.id + 1)
    );
    assert_eq!(
        refused(database.write(|db| pan.delete(db))),
        format!("post_delete Object#{}, keep: nothing is deleted", pan.id)
    );
    let two = || ["a", "b"].map(|title| NewObject { title: title.into(), ..NewObject::default() });
    assert_eq!(
        refused(database.write(|db| Object::bulk_insert(db, two()).map(drop))),
        "bulk_changed Object (2 rows), few: too many"
    );
    let labels = database.read(Label::all).unwrap();
    assert_eq!(labels.iter().map(|label| &*label.name).collect::<Vec<_>>(), ["audit Pan"]);
    let link = database.write(|db| ObjectLabel::set(db, pan.id, &[labels[0].id]).map(drop));
    assert_eq!(refused(link), "links_changed ObjectLabel (1 added, 0 removed), none: no links");
    assert_eq!(database.read(|db| ObjectLabel::right_pks(db, pan.id)).unwrap(), [0; 0]);
    assert_eq!(database.read(Object::count).unwrap(), 1);
    assert!(signals.disconnect("audit") && !signals.disconnect("audit"));
}

#[test]
fn links_to_what_is_not_there_are_refused() {
    let database = database();
    let pan = database.write(|db| insert(db, "Pan")).unwrap();
    assert!(database.write(|db| ObjectLabel::set(db, pan.id, &[7])).is_err());
    assert_eq!(database.read(|db| ObjectLabel::rights(db, pan.id)).unwrap(), []);
    let label = database.write(|db| Label::insert(db, NewLabel { name: "copper".into() })).unwrap();
    let twice = database.write(|db| ObjectLabel::add(db, &[(pan.id, label.id), (pan.id, label.id)])).unwrap();
    assert_eq!(twice.added, [(pan.id, label.id)]);
    assert_eq!(database.read(|db| ObjectLabel::left_pks(db, label.id)).unwrap(), [pan.id]);
    let cleared = database.write(|db| ObjectLabel::clear(db, Side::Right, label.id)).unwrap();
    assert_eq!(cleared.removed, [(pan.id, label.id)]);
    let reading = database.read(|db| ObjectLabel::set(db, pan.id, &[]).map(drop));
    assert!(matches!(reading, Err(Error::ReadOnly { model: "ObjectLabel" })), "{reading:?}");
}
