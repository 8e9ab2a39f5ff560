//! Nothing says in the app what an edit makes stale. Each row is edited in turn, by another process, and each page is looked at:
//! those that show the row are new, the others are still from the cache.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use larder_cache::Caches;
use larder_models::{Category, Database, Label, Link, Model, Object, ObjectLabel};

use crate::site::{Site, Visitor, header};

/// Longer than it takes until the app hears of the edits of another process.
const HEARD: Duration = Duration::from_millis(150);

/// The rows, and which belong to which.
struct Rows {
    objects: Vec<Object>,
    categories: Vec<Category>,
    labels: Vec<Label>,
    labels_of: BTreeMap<i64, BTreeSet<i64>>,
}

impl Rows {
    fn load(database: &Database) -> Self {
        let load = |db: &mut larder_models::Db| {
            let objects = Object::list(db, |rows| rows)?;
            let mut labels_of = BTreeMap::new();
            for object in &objects {
                labels_of.insert(object.id, ObjectLabel::right_pks(db, object.id)?.into_iter().collect());
            }
            Ok(Rows { objects, categories: Category::all(db)?, labels: Label::all(db)?, labels_of })
        };
        database.read(load).unwrap()
    }

    fn pages(&self) -> Vec<String> {
        let objects = self.published().map(|object| format!("/objects/{}/", object.id));
        let categories = self.categories.iter().map(|category| format!("/categories/{}/", category.id));
        let labels = self.labels.iter().map(|label| format!("/labels/{}/", label.id));
        objects.chain(categories).chain(labels).chain(["/".to_owned()]).collect()
    }

    fn published(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(|object| object.published)
    }

    fn is_labelled(&self, object: &Object, label: i64) -> bool {
        self.labels_of[&object.id].contains(&label)
    }

    /// Returns the pages that show an object: its own, those of its category and labels. The page of a label reads objects
    /// that are not published too, to leave them out.
    fn of_object(&self, object: &Object) -> BTreeSet<String> {
        let labels = self.labels_of[&object.id].iter().map(|label| format!("/labels/{label}/"));
        let category = object.category_id.filter(|_| object.published).map(|id| format!("/categories/{id}/"));
        let own = object.published.then(|| format!("/objects/{}/", object.id));
        labels.chain(category).chain(own).collect()
    }

    /// Returns the pages that show the name of a category: its own, and all that show one of its objects.
    fn of_category(&self, category: &Category) -> BTreeSet<String> {
        let objects = self.published().filter(|object| object.category_id == Some(category.id));
        objects.flat_map(|object| self.of_object(object)).chain([format!("/categories/{}/", category.id)]).collect()
    }

    fn of_label(&self, label: &Label) -> BTreeSet<String> {
        let objects = self.published().filter(|object| self.is_labelled(object, label.id));
        objects.flat_map(|object| self.of_object(object)).chain([format!("/labels/{}/", label.id)]).collect()
    }
}

/// Opens pages until they come from the cache.
fn warm(visitor: &Visitor, pages: &[String]) {
    for page in pages {
        let is_hit = || header(&visitor.get(page), "cache-status").contains("hit");
        assert!((0..5).any(|_| is_hit()), "{page} is not cached");
    }
}

#[test]
fn each_edit_takes_away_the_pages_that_show_the_row_and_no_others() {
    let site = Site::start();
    let visitor = site.visitor();
    let caches = Caches::local();
    let database = site.database().with_caches(&caches);
    let rows = Rows::load(&database);
    let pages = rows.pages();
    assert!(pages.len() > 30, "{pages:?}");

    let edit = |what: &str, expected: BTreeSet<String>, is_in_list: bool, edit: &dyn Fn(&str)| {
        warm(&visitor, &pages);
        let list = visitor.page("/objects/");
        assert_eq!(visitor.page("/objects/"), list);
        edit(" edited");
        thread::sleep(HEARD);
        let made_anew = pages.iter().filter(|page| !header(&visitor.get(page), "cache-status").contains("hit"));
        assert_eq!(made_anew.cloned().collect::<BTreeSet<_>>(), expected, "{what}");
        for page in &expected {
            assert!(visitor.page(page).0.contains(" edited") || !is_in_list, "{page} does not show {what}");
        }
        assert_eq!(visitor.page("/objects/") != list, is_in_list, "{what} in the list");
    };
    for object in &rows.objects {
        edit(&object.title, rows.of_object(object), object.published, &|more| {
            database.write(|db| Object { title: object.title.clone() + more, ..object.clone() }.save(db)).unwrap();
        });
    }
    for category in &rows.categories {
        edit(&category.name, rows.of_category(category), true, &|more| {
            database.write(|db| Category { name: category.name.clone() + more, ..category.clone() }.save(db)).unwrap();
        });
    }
    for label in &rows.labels {
        let is_in_list = rows.published().any(|object| rows.is_labelled(object, label.id));
        edit(&label.name, rows.of_label(label), is_in_list, &|more| {
            database.write(|db| Label { name: label.name.clone() + more, ..label.clone() }.save(db)).unwrap();
        });
    }
}
