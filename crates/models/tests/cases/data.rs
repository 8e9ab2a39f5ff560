use larder_models::{Data, Error, Label, Link, Model, NewLabel, Object, ObjectLabel, Record, sample};

use super::{
    database, insert,
    invalidation::{connected, default},
};

#[test]
fn what_is_dumped_is_loaded_elsewhere_under_the_same_keys() {
    let (old, new, data) = (database(), database(), Data::collection());
    old.write(sample::load).unwrap();
    // A gap among the keys.
    old.write(|db| Object::get(db, 2)?.delete(db)).unwrap();
    let records = old.read(|db| data.dump(db, &[])).unwrap();
    let mut shuffled = records.clone();
    shuffled.reverse();
    assert_eq!(new.write(|db| data.load(db, shuffled.clone())).unwrap(), records.len());
    assert_eq!(new.read(|db| data.dump(db, &[])).unwrap(), records);
    let last = records.iter().filter(|record| record.model == "object").filter_map(|record| record.pk).max().unwrap();
    assert!(new.write(|db| insert(db, "New")).unwrap().id > last, "no key is given twice");

    // Again: it takes the place of what is there.
    new.write(|db| {
        Label::list(db, |rows| rows)?.into_iter().try_for_each(|mut label| {
            label.name.push('!');
            label.save(db).map(drop)
        })
    })
    .unwrap();
    new.write(|db| data.load(db, shuffled)).unwrap();
    let only = ["category", "label", "object_label"];
    assert_eq!(new.read(|db| data.dump(db, &only)).unwrap(), old.read(|db| data.dump(db, &only)).unwrap());
}

#[test]
fn what_is_loaded_shows_at_once() {
    let (database, caches) = connected();
    let cache = default(&caches);
    let pan = database.write(|db| insert(db, "Pan")).unwrap();
    let copper = database.write(|db| Label::insert(db, NewLabel { name: "copper".into() })).unwrap();
    let load = |json: &str| {
        let records: Vec<Record> = serde_json::from_str(json).unwrap();
        database.write(|db| Data::collection().load(db, records))
    };
    let labels = || {
        let read = || database.read(|db| ObjectLabel::rights(db, pan.id));
        let labels = cache.get_or_set("labels", 600, read).unwrap();
        labels.into_iter().map(|label| label.name).collect::<Vec<_>>()
    };
    assert_eq!(labels(), [""; 0]);
    load(&format!(
        r#"[{{"model": "object_label", "fields": {{"object_id": {}, "label_id": {}}}}}]"#,
        pan.id, copper.id
    ))
    .unwrap();
    assert_eq!(labels(), ["copper"]);
    load(&format!(r#"[{{"model": "label", "pk": {}, "fields": {{"name": "brass", "version": 7}}}}]"#, copper.id))
        .unwrap();
    assert_eq!(labels(), ["brass"]);
    let refused = load(r#"[{"model": "label", "pk": 50, "fields": {"name": "brass", "version": 1}}]"#);
    assert!(matches!(&refused, Err(Error::Data { record, .. }) if record == "label 50"), "{refused:?}");
    assert_eq!(labels(), ["brass"]);
}
