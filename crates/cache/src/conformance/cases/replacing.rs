//! Compare-and-swap, asked of the store itself: no verb of the cache is only that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::{Harness, SHORT, after, text, value};
use crate::{
    Error, Expiry, Result,
    backend::{Backend, Replacement, Value},
};

pub fn replace_needs_the_value_that_is_there<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.open(), harness.open());
    let minute = after(harness, 60);
    let values = [text("text"), text("texu"), text(""), text("\0\r\nEND\r\n"), Value::Integer(-7), Value::Integer(7)];
    for old in &values {
        here.set("key", old, minute).unwrap();
        for other in values.iter().filter(|other| *other != old) {
            assert!(!there.replace("key", other, &text("new"), minute).unwrap(), "{other:?} is not {old:?}");
        }
        assert_eq!(value(&*here, "key").as_ref(), Some(old), "a refused replacement changes nothing");
        assert!(there.replace("key", old, &text("new"), minute).unwrap(), "{old:?}");
        assert_eq!(value(&*here, "key"), Some(text("new")));
        assert!(!there.replace("key", old, &text("newer"), minute).unwrap(), "{old:?} is gone");
    }
}

pub fn large_values_are_compared_to_their_last_byte<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    let mut bytes = vec![7; 100_000];
    let old = Value::Bytes(bytes.clone().into());
    bytes[99_999] = 8;
    let other = Value::Bytes(bytes.into());
    store.set("key", &old, minute).unwrap();
    assert!(!store.replace("key", &other, &text("wrong"), minute).unwrap());
    assert!(store.replace("key", &old, &other, minute).unwrap());
    assert!(store.replace("key", &other, &text("ticket"), minute).unwrap());
    assert!(store.replace("key", &text("ticket"), &old, minute).unwrap());
    assert_eq!(value(&*store, "key"), Some(old));
}

pub fn what_is_missing_or_has_expired_is_not_replaced<H: Harness>(harness: &Arc<H>) {
    let store = harness.open();
    assert!(!store.replace("missing", &text("old"), &text("new"), after(harness, 60)).unwrap());
    store.set("key", &text("old"), after(harness, SHORT)).unwrap();
    store.set("counter", &Value::Integer(1), after(harness, SHORT)).unwrap();
    harness.wait(SHORT);
    assert!(!store.replace("key", &text("old"), &text("new"), after(harness, 60)).unwrap());
    assert!(!store.replace("counter", &Value::Integer(1), &text("new"), after(harness, 60)).unwrap());
    for key in ["missing", "key", "counter"] {
        assert_eq!(store.get(key).unwrap(), None, "{key}");
    }
}

pub fn what_was_deleted_overwritten_or_cleared_is_not_replaced<H: Harness>(harness: &Arc<H>) {
    let (here, there) = (harness.open(), harness.open());
    let minute = after(harness, 60);
    let ticket = text("ticket 1");
    type Loss = fn(&dyn Backend, Expiry);
    let losses: [(&str, Loss); 5] = [
        ("deleted", |store, _| assert!(store.delete("key").unwrap())),
        ("deleted with others", |store, _| assert_eq!(store.delete_many(&["other", "key"]).unwrap(), 1)),
        ("cleared", |store, _| store.clear().unwrap()),
        ("overwritten", |store, expiry| store.set("key", &text("theirs"), expiry).unwrap()),
        ("deleted and added", |store, expiry| {
            assert!(store.delete("key").unwrap());
            assert!(store.add("key", &text("ticket 2"), expiry).unwrap());
        }),
    ];
    for (name, lose) in losses {
        here.set("key", &ticket, minute).unwrap();
        lose(&*there, minute);
        let left = value(&*there, "key");
        assert!(!here.replace("key", &ticket, &text("result"), minute).unwrap(), "{name}");
        assert_eq!(value(&*there, "key"), left, "{name}");
    }
}

pub fn a_replaced_value_has_the_new_expiry<H: Harness>(harness: &Arc<H>) {
    let store = harness.open();
    let replace = |key: &str, from: Expiry, to: Expiry| {
        store.set(key, &text("old"), from).unwrap();
        assert!(store.replace(key, &text("old"), &text("new"), to).unwrap(), "{key}");
    };
    let long = after(harness, 60 * 24 * 60 * 60);
    replace("longer", after(harness, SHORT), long);
    replace("ever", after(harness, SHORT), Expiry::Never);
    replace("shorter", long, after(harness, SHORT));
    replace("short_from_ever", Expiry::Never, after(harness, SHORT));
    assert_eq!(store.get("ever").unwrap().unwrap().expiry, Expiry::Never);
    harness.wait(SHORT);
    assert_eq!(value(&*store, "longer"), Some(text("new")));
    assert_eq!(value(&*store, "ever"), Some(text("new")));
    assert_eq!(value(&*store, "shorter"), None);
    assert_eq!(value(&*store, "short_from_ever"), None);
}

pub fn replace_with_an_expiry_that_has_passed_removes_the_value<H: Harness>(harness: &Arc<H>) {
    let store = harness.open();
    let past = Expiry::At(harness.clock().now());
    store.set("key", &text("old"), Expiry::Never).unwrap();
    assert!(!store.replace("key", &text("other"), &text("new"), past).unwrap());
    assert_eq!(value(&*store, "key"), Some(text("old")));
    assert!(store.replace("key", &text("old"), &text("new"), past).unwrap());
    assert_eq!(value(&*store, "key"), None);
    assert!(store.add("key", &text("new"), Expiry::Never).unwrap(), "nothing is left of it");
}

pub fn a_replaced_counter_counts_on<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    store.set("counter", &Value::Integer(41), minute).unwrap();
    assert_eq!(store.incr("counter", -40).unwrap(), Some(1));
    assert!(!store.replace("counter", &Value::Integer(41), &Value::Integer(5), minute).unwrap());
    assert!(store.replace("counter", &Value::Integer(1), &Value::Integer(i64::MIN), minute).unwrap());
    assert_eq!(store.incr("counter", 1).unwrap(), Some(i64::MIN + 1));
    assert!(store.replace("counter", &Value::Integer(i64::MIN + 1), &text("text"), minute).unwrap());
    assert!(matches!(store.incr("counter", 1), Err(Error::NotACounter { .. })));
    assert!(store.replace("counter", &text("text"), &Value::Integer(0), minute).unwrap());
    assert_eq!(store.incr("counter", 1).unwrap(), Some(1));
}

pub fn batches_add_and_replace_as_single_calls_do<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    let keys: Vec<String> = (0..250).map(|number| format!("key{number}")).collect();
    let is_third = |position: usize| position.is_multiple_of(3);
    for key in keys.iter().step_by(3) {
        store.set(key, &text("theirs"), minute).unwrap();
    }
    let tickets: Vec<(&str, Value)> = keys.iter().map(|key| (key.as_str(), text(&format!("ticket {key}")))).collect();
    let added = store.add_many(&tickets, minute).unwrap();
    let expected: Vec<bool> = (0..keys.len()).map(|position| !is_third(position)).collect();
    assert_eq!(added, expected);

    let results: Vec<Value> = (0..keys.len()).map(|number| Value::Integer(number as i64)).collect();
    let past = Expiry::At(harness.clock().now());
    let items = tickets.iter().zip(&results).enumerate().map(|(position, ((key, old), new))| {
        let expiry = if position == 1 { past } else { minute };
        Replacement { key, old, new, expiry }
    });
    let items: Vec<Replacement<'_>> = items.collect();
    assert_eq!(store.replace_many(&items).unwrap(), expected);
    for (position, key) in keys.iter().enumerate() {
        let expected = match position {
            1 => None,
            _ if is_third(position) => Some(text("theirs")),
            _ => Some(results[position].clone()),
        };
        assert_eq!(value(&*store, key), expected, "{key}");
    }
    assert!(!store.replace_many(&items).unwrap().contains(&true), "the tickets are spent");
    assert_eq!(store.add_many(&[("new", text("a")), ("new", text("b"))], minute).unwrap(), [true, false]);
    assert_eq!(store.add_many(&[("new", text("c")), ("past", text("c"))], past).unwrap(), [false, true]);
    assert_eq!(store.get("past").unwrap(), None);
    assert!(store.add_many(&[], minute).unwrap().is_empty());
    assert!(store.replace_many(&[]).unwrap().is_empty());
}

pub fn counting_by_replace_from_many_threads_loses_nothing<H: Harness>(harness: &Arc<H>) {
    let minute = after(harness, 600);
    harness.open().set("counter", &Value::Integer(0), minute).unwrap();
    let count_up = |store: &dyn Backend| {
        loop {
            let Some(Value::Integer(number)) = value(store, "counter") else { panic!("the counter is gone") };
            if store.replace("counter", &Value::Integer(number), &Value::Integer(number + 1), minute).unwrap() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            let store = harness.open();
            scope.spawn(move || (0..25).for_each(|_| count_up(&*store)));
        }
    });
    assert_eq!(value(&*harness.open(), "counter"), Some(Value::Integer(100)));
}

pub fn one_of_many_replacements_wins<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 600));
    for round in 0..10 {
        let ticket = text(&format!("ticket {round}"));
        store.set("key", &ticket, minute).unwrap();
        let winners: Vec<String> = thread::scope(|scope| {
            let attempts: Vec<_> = (0..4)
                .map(|number| {
                    let (store, ticket) = (harness.open(), ticket.clone());
                    scope.spawn(move || {
                        let result = format!("result {round} of {number}");
                        store.replace("key", &ticket, &text(&result), minute).unwrap().then_some(result)
                    })
                })
                .collect();
            attempts.into_iter().filter_map(|attempt| attempt.join().unwrap()).collect()
        });
        let [winner] = winners.as_slice() else { panic!("{winners:?} all won") };
        assert_eq!(value(&*store, "key"), Some(text(winner)));
    }
}

/// How often the row is edited while its value is computed from it again and again.
const EDITS: i64 = 50;

/// Loaders and an editor, as the cache does it: ticket, computation, replacement against edit, deletion. Runs on a
/// store that fails now and then, too.
pub fn a_deletion_wins_over_what_is_being_computed<H: Harness>(harness: &Arc<H>) {
    let (row, invalidated, stored) = (AtomicI64::new(0), AtomicI64::new(0), AtomicUsize::new(0));
    let expiry = after(harness, 600);
    let look = |store: &dyn Backend| {
        let oldest = invalidated.load(SeqCst);
        let Some(Value::Integer(number)) = answer(store.get("key")).flatten().map(|entry| entry.value) else {
            return false;
        };
        assert!(number >= oldest, "read {number} after the deletion for {oldest} was done");
        true
    };
    let load = |store: &dyn Backend, ticket: &Value| {
        if answer(store.add("key", ticket, expiry)) == Some(true) {
            let result = Value::Integer(row.load(SeqCst));
            thread::yield_now();
            let replaced = answer(store.replace("key", ticket, &result, expiry)) == Some(true);
            stored.fetch_add(usize::from(replaced), SeqCst);
        }
    };
    thread::scope(|scope| {
        for loader in 0..3 {
            let (store, row, look, load) = (harness.open(), &row, &look, &load);
            scope.spawn(move || {
                // Bounded, for the editor may fail.
                for turn in 0..50_000 {
                    if row.load(SeqCst) == EDITS {
                        return;
                    }
                    if !look(&*store) {
                        load(&*store, &text(&format!("ticket {turn} of {loader}")));
                    }
                }
            });
        }
        let store = harness.open();
        for edit in 1..=EDITS {
            for _ in 0..20 {
                if look(&*store) {
                    break;
                }
                thread::sleep(Duration::from_micros(100));
            }
            row.store(edit, SeqCst);
            while answer(store.delete("key")).is_none() {}
            invalidated.store(edit, SeqCst);
        }
    });
    assert!(stored.load(SeqCst) > 0, "nothing was ever stored");
}

fn answer<T>(asked: Result<T>) -> Option<T> {
    match asked {
        Ok(answer) => Some(answer),
        Err(error) if error.is_outage() => None,
        Err(error) => panic!("{error}"),
    }
}

pub fn a_replacement_over_the_limit_is_refused_and_the_old_value_stays<H: Harness>(harness: &Arc<H>) {
    let (store, minute) = (harness.open(), after(harness, 60));
    let Some(limit) = store.capabilities().max_value_bytes else { return };
    let large = Value::Bytes(vec![7; limit + 1].into());
    for key in ["a", "b", "c"] {
        store.set(key, &text("old"), minute).unwrap();
    }
    let refused = store.replace("b", &text("old"), &large, minute);
    assert!(matches!(refused, Err(Error::ValueTooLarge { .. })), "{refused:?}");
    assert_eq!(value(&*store, "b"), Some(text("old")));
    let (old, new) = (text("old"), text("new"));
    let items =
        [("a", &new), ("b", &large), ("c", &new)].map(|(key, new)| Replacement { key, old: &old, new, expiry: minute });
    let replaced = store.replace_many(&items).unwrap();
    assert_eq!(replaced, [true, false, true]);
    assert_eq!(value(&*store, "b"), Some(text("old")));
    let items = [("d", new.clone()), ("e", large), ("f", new)];
    assert_eq!(store.add_many(&items, minute).unwrap(), [true, false, true]);
    assert_eq!(value(&*store, "e"), None);
}
