use larder_models::{Action, Error, LogEntry, Model, NewUser, Password, User};

use super::{database, insert};

fn anna() -> NewUser {
    NewUser {
        username: "anna".to_owned(),
        password: Password::new("quince jelly").unwrap(),
        is_staff: true,
        is_superuser: false,
    }
}

#[test]
fn only_an_active_user_with_the_right_password_is_verified() {
    let database = database();
    let mut user = database.write(|db| User::create(db, anna())).unwrap();
    let verify = |name: &str, password: &str| database.read(|db| User::verify(db, name, password)).unwrap();
    assert_eq!(verify("anna", "quince jelly"), Some(user.clone()));
    assert_eq!(verify("anna", "quince jam"), None);
    assert_eq!(verify("Anna", "quince jelly"), None);
    assert_eq!(verify("nobody", "nobody has this password"), None);

    let password = Password::new("damson cheese").unwrap();
    database.write(|db| user.set_password(db, password)).unwrap();
    assert_eq!(verify("anna", "quince jelly"), None);
    assert_eq!(verify("anna", "damson cheese"), Some(user.clone()));

    user.is_active = false;
    database.write(|db| user.save(db)).unwrap();
    assert_eq!(verify("anna", "damson cheese"), None);
}

#[test]
fn a_username_is_taken_once() {
    let database = database();
    database.write(|db| User::create(db, anna())).unwrap();
    let taken = database.write(|db| User::create(db, anna()));
    assert!(matches!(&taken, Err(Error::Unique { field: Some(field), .. }) if field == "username"), "{taken:?}");
    let upper = NewUser { username: "ANNA".to_owned(), ..anna() };
    let upper = database.write(|db| User::create(db, upper)).unwrap();
    assert_eq!(database.read(|db| User::by_username(db, "ANNA")).unwrap(), Some(upper));
    assert_eq!(database.read(|db| User::by_username(db, "aNNa")).unwrap(), None);
}

#[test]
fn names_and_passwords_have_rules() {
    assert_eq!(Password::new("1234567").unwrap_err().of("password"), ["Use at least 8 characters."]);
    assert!(Password::new("ööööööö").is_err());
    let database = database();
    for username in ["", " anna", "an\nna", &"x".repeat(151)] {
        let refused = database.write(|db| User::create(db, NewUser { username: username.to_owned(), ..anna() }));
        assert!(matches!(refused, Err(Error::Validation(invalid)) if !invalid.of("username").is_empty()));
    }
}

#[test]
fn a_password_is_neither_printed_nor_written_into_the_history() {
    let database = database();
    let mut user = database.write(|db| User::create(db, anna())).unwrap();
    let shown = format!("{user:?} {:?} {}", anna(), serde_json::to_string(&user).unwrap());
    assert!(!shown.contains("argon2") && !shown.contains("quince"), "{shown}");

    let password = Password::new("damson cheese").unwrap();
    let heard = super::Journal::default();
    let lines = heard.clone();
    database.signals().post_save::<User>("journal", move |event| {
        lines.write(serde_json::to_string(&event.changed)?);
        Ok(())
    });
    database.write(|db| user.set_password(db, password)).unwrap();
    assert_eq!(heard.take(), [r#"[{"field":"password","old":"(hidden)","new":"(hidden)"}]"#]);
}

#[test]
fn the_history_outlives_the_user() {
    let database = database();
    database
        .write(|db| {
            let user = User::create(db, anna())?;
            let object = insert(db, "Pan")?;
            let entry = LogEntry::record(db, user.id, Action::Added, &object, &[])?;
            assert_eq!(LogEntry::recent(db, 1)?, std::slice::from_ref(&entry));
            user.delete(db)?;
            assert_eq!(LogEntry::recent(db, 1)?, [LogEntry { user_id: None, ..entry }]);
            Ok(())
        })
        .unwrap();
}
