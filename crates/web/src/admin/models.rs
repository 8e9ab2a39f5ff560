//! The models of the app, described to the admin.

use std::collections::HashMap;

use diesel::{dsl::count_star, prelude::*};
use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};
use larder_models::{
    Category, Db, Group, Label, Link, LogEntry, Model, NewCategory, NewGroup, NewLabel, NewObject, Object, ObjectLabel,
    Result, User, UserGroup, lower,
    schema::{category, label, log_entry, object, object_label, staff_group, user},
};
use serde_json::json;

use super::{
    describe::{
        Action, Choice, Column, Dependents, Fact, Field, Fieldset, Filter, Kind, LinkField, MAX_NAMES, ModelAdmin,
        Search, Widget, column, field, refusal,
    },
    registry::{Registered, permission_choices},
};

/// Returns the models in the order of the index.
pub(super) fn all() -> Vec<Box<dyn Registered>> {
    vec![
        Box::new(objects()),
        Box::new(categories()),
        Box::new(labels()),
        Box::new(users()),
        Box::new(groups()),
        Box::new(log_entries()),
    ]
}

fn objects() -> ModelAdmin<Object> {
    ModelAdmin {
        path: "objects",
        one: "object",
        many: "objects",
        columns: vec![
            column!(Object.title in object, "Title", Kind::Text, lower(object::title)),
            Column {
                name: "category",
                label: "Category",
                kind: Kind::Text,
                values: |db, rows| {
                    let found = Category::find_many(db, rows.iter().filter_map(|row| row.category_id))?;
                    let name = |row: &Object| row.category_id.and_then(|id| found.get(&id)).map(|one| one.name.clone());
                    Ok(rows.iter().map(|row| json!(name(row))).collect())
                },
                order: None,
            },
            column!(Object.published in object, "Published", Kind::Bool),
            column!(Object.created in object, "Created", Kind::Time),
            column!(Object.updated in object, "Updated", Kind::Time),
        ],
        search: Some(Search {
            help: "title and body",
            word: |rows, word| {
                let in_title = lower(object::title).like(word.clone()).escape('\\');
                rows.filter(in_title.or(lower(object::body).like(word).escape('\\')))
            },
        }),
        filters: vec![
            Filter {
                name: "published",
                label: "Published",
                choices: |_| Ok(vec![Choice::new("yes", "Yes"), Choice::new("no", "No")]),
                keep: |rows, value, _| rows.filter(object::published.eq(value == "yes")),
            },
            Filter {
                name: "category",
                label: "Category",
                choices: |db| {
                    let mut choices = category_choices(db)?;
                    choices.push(Choice::new("none", "None"));
                    Ok(choices)
                },
                keep: |rows, value, _| match value.parse::<i64>() {
                    Ok(id) => rows.filter(object::category_id.eq(id)),
                    Err(_) => rows.filter(object::category_id.is_null()),
                },
            },
            Filter {
                name: "updated",
                label: "Updated",
                choices: |_| Ok(time_choices()),
                keep: |rows, value, now| rows.filter(object::updated.ge(since(value, now))),
            },
        ],
        ordering: "-created",
        per_page: 20,
        blank: Some(|now| Object::draft(NewObject { published: true, ..NewObject::default() }, now)),
        fieldsets: vec![
            Fieldset {
                title: "",
                fields: vec![
                    field!(Object.title, "Title", Widget::Line)
                        .help("One line, shown in lists and as the heading of the page.")
                        .required(),
                    field!(Object.body, "Body", Widget::Lines)
                        .help("Plain text. An empty line starts a new paragraph."),
                ],
            },
            Fieldset {
                title: "Where it is shown",
                fields: vec![
                    field!(Object.published, "Published", Widget::Check)
                        .help("Only published objects are shown on the site."),
                    field!(Object.category_id, "Category", Widget::Select(category_choices)),
                ],
            },
        ],
        links: vec![LinkField {
            name: "labels",
            label: "Labels",
            help: "",
            is_guarded: false,
            choices: label_choices,
            load: ObjectLabel::right_pks,
            store: |db, pk, labels| ObjectLabel::set(db, pk, labels).map(drop),
        }],
        version: Some((|row| row.version, |row, version| row.version = version)),
        facts: |row| {
            vec![
                ("Number", Fact::Text(row.id.to_string())),
                ("Created", Fact::Time(row.created)),
                ("Updated", Fact::Time(row.updated)),
            ]
        },
        actions: vec![
            Action { name: "publish", label: "Publish", run: |db, pks| publish(db, pks, true), done: "published" },
            Action {
                name: "unpublish",
                label: "Take off the site",
                run: |db, pks| publish(db, pks, false),
                done: "taken off the site",
            },
        ],
        before_save: |_, _| Ok(()),
        before_delete: |_, _| Ok(()),
        view_on_site: |row| row.published.then(|| format!("/objects/{}/", row.id)),
        dependents: |_, _| Ok(Vec::new()),
        is_guarded: |_| false,
    }
}

fn categories() -> ModelAdmin<Category> {
    ModelAdmin {
        path: "categories",
        one: "category",
        many: "categories",
        columns: vec![
            column!(Category.name in category, "Name", Kind::Text, lower(category::name)),
            Column {
                name: "objects",
                label: "Objects",
                kind: Kind::Text,
                values: |db, rows| {
                    let ids = rows.iter().map(|row| Some(row.id));
                    let counted = object::table
                        .filter(object::category_id.eq_any(ids))
                        .group_by(object::category_id)
                        .select((object::category_id.assume_not_null(), count_star()));
                    let counts: HashMap<i64, i64> = counted.load(db.conn())?.into_iter().collect();
                    Ok(rows.iter().map(|row| json!(counts.get(&row.id).unwrap_or(&0))).collect())
                },
                order: None,
            },
        ],
        search: Some(Search {
            help: "name",
            word: |rows, word| rows.filter(lower(category::name).like(word).escape('\\')),
        }),
        filters: Vec::new(),
        ordering: "name",
        per_page: 50,
        blank: Some(|now| Category::draft(NewCategory::default(), now)),
        fieldsets: vec![Fieldset {
            title: "",
            fields: vec![
                field!(Category.name, "Name", Widget::Line).help("Shown on the pages of its objects.").required(),
            ],
        }],
        links: Vec::new(),
        version: Some((|row| row.version, |row, version| row.version = version)),
        facts: |row| vec![("Number", Fact::Text(row.id.to_string()))],
        actions: Vec::new(),
        before_save: |_, _| Ok(()),
        before_delete: |_, _| Ok(()),
        view_on_site: |row| Some(format!("/categories/{}/", row.id)),
        dependents: |db, row| {
            let of_it = |rows: <Object as Model>::Rows| rows.filter(object::category_id.eq(row.id));
            let found = Object::page(db, 1, MAX_NAMES, of_it, |rows| rows.order((object::title, object::id)))?;
            Ok(vec![Dependents::new("These objects will be in no category:", found.total, &found.items)])
        },
        is_guarded: |_| false,
    }
}

fn labels() -> ModelAdmin<Label> {
    ModelAdmin {
        path: "labels",
        one: "label",
        many: "labels",
        columns: vec![
            column!(Label.name in label, "Name", Kind::Text, lower(label::name)),
            Column {
                name: "objects",
                label: "Objects",
                kind: Kind::Text,
                values: |db, rows| {
                    let counted = object_label::table
                        .filter(object_label::label_id.eq_any(rows.iter().map(|row| row.id)))
                        .group_by(object_label::label_id)
                        .select((object_label::label_id, count_star()));
                    let counts: HashMap<i64, i64> = counted.load(db.conn())?.into_iter().collect();
                    Ok(rows.iter().map(|row| json!(counts.get(&row.id).unwrap_or(&0))).collect())
                },
                order: None,
            },
        ],
        search: Some(Search {
            help: "name",
            word: |rows, word| rows.filter(lower(label::name).like(word).escape('\\')),
        }),
        filters: Vec::new(),
        ordering: "name",
        per_page: 50,
        blank: Some(|now| Label::draft(NewLabel::default(), now)),
        fieldsets: vec![Fieldset {
            title: "",
            fields: vec![
                field!(Label.name, "Name", Widget::Line)
                    .help("Shown on the pages of the objects that have it.")
                    .required(),
            ],
        }],
        links: Vec::new(),
        version: Some((|row| row.version, |row, version| row.version = version)),
        facts: |row| vec![("Number", Fact::Text(row.id.to_string()))],
        actions: Vec::new(),
        before_save: |_, _| Ok(()),
        before_delete: |_, _| Ok(()),
        view_on_site: |row| Some(format!("/labels/{}/", row.id)),
        dependents: |db, row| {
            let pks = ObjectLabel::left_pks(db, row.id)?;
            let shown = Object::find_many(db, pks.iter().copied().take(MAX_NAMES as usize))?;
            Ok(vec![Dependents::new("These objects will lose the label:", pks.len() as i64, shown.values())])
        },
        is_guarded: |_| false,
    }
}

fn users() -> ModelAdmin<User> {
    ModelAdmin {
        path: "users",
        one: "user",
        many: "users",
        columns: vec![
            column!(User.username in user, "Username", Kind::Text, lower(user::username)),
            column!(User.is_staff in user, "Staff", Kind::Bool),
            column!(User.is_superuser in user, "Superuser", Kind::Bool),
            column!(User.is_active in user, "Active", Kind::Bool),
            column!(User.created in user, "Created", Kind::Time),
        ],
        search: Some(Search {
            help: "username",
            word: |rows, word| rows.filter(lower(user::username).like(word).escape('\\')),
        }),
        filters: vec![
            Filter {
                name: "staff",
                label: "Staff",
                choices: |_| Ok(vec![Choice::new("yes", "Yes"), Choice::new("no", "No")]),
                keep: |rows, value, _| rows.filter(user::is_staff.eq(value == "yes")),
            },
            Filter {
                name: "active",
                label: "Active",
                choices: |_| Ok(vec![Choice::new("yes", "Yes"), Choice::new("no", "No")]),
                keep: |rows, value, _| rows.filter(user::is_active.eq(value == "yes")),
            },
        ],
        ordering: "username",
        per_page: 50,
        blank: Some(User::blank),
        fieldsets: vec![
            Fieldset {
                title: "",
                fields: vec![
                    field!(User.username, "Username", Widget::Line).help("To sign in with.").required(),
                    Field {
                        name: "password",
                        label: "New password",
                        help: "At least eight characters. Left empty, the password stays as it is.",
                        widget: Widget::Password,
                        is_required: false,
                        is_guarded: false,
                        get: |_| json!(null),
                        set: |user, entered| {
                            if let super::describe::Entered::Password(password) = entered {
                                user.replace_password(password);
                            }
                            Ok(())
                        },
                    },
                ],
            },
            Fieldset {
                title: "What the user may do",
                fields: vec![
                    field!(User.is_active, "Active", Widget::Check)
                        .help("May sign in. Better switched off than deleted: the history keeps the name."),
                    field!(User.is_staff, "Staff", Widget::Check).help("May enter the admin.").guarded(),
                    field!(User.is_superuser, "Superuser", Widget::Check)
                        .help("May do everything there, without being in a group that may.")
                        .guarded(),
                ],
            },
        ],
        links: vec![LinkField {
            name: "groups",
            label: "Groups",
            help: "The user may do what the members of these groups may.",
            is_guarded: true,
            choices: |db| Ok(Group::all(db)?.into_iter().map(|group| Choice::new(group.id, group.name)).collect()),
            load: UserGroup::right_pks,
            store: |db, pk, groups| UserGroup::set(db, pk, groups).map(drop),
        }],
        version: Some((|row| row.version, |row, version| row.version = version)),
        facts: |row| vec![("Created", Fact::Time(row.created))],
        actions: Vec::new(),
        before_save: keep_a_superuser,
        before_delete: |db, row| {
            let mut gone = row.clone();
            gone.is_active = false;
            keep_a_superuser(db, &gone)
        },
        view_on_site: |_| None,
        dependents: |_, _| Ok(Vec::new()),
        // Who could set the password of somebody who may do more could do more, too.
        is_guarded: |row| row.is_superuser || row.is_staff,
    }
}

fn groups() -> ModelAdmin<Group> {
    ModelAdmin {
        path: "groups",
        one: "group",
        many: "groups",
        columns: vec![
            column!(Group.name in staff_group, "Name", Kind::Text, lower(staff_group::name)),
            column!(Group.permissions in staff_group, "Permissions", Kind::Text),
        ],
        search: Some(Search {
            help: "name",
            word: |rows, word| rows.filter(lower(staff_group::name).like(word).escape('\\')),
        }),
        filters: Vec::new(),
        ordering: "name",
        per_page: 50,
        blank: Some(|now| Group::draft(NewGroup::default(), now)),
        fieldsets: vec![Fieldset {
            title: "",
            fields: vec![
                field!(Group.name, "Name", Widget::Line).required(),
                Field {
                    name: "permissions",
                    label: "Permissions",
                    help: "What the members may do. Who may change rows may also view them.",
                    widget: Widget::Checks(|_| {
                        let names: Vec<_> = all().iter().map(|model| model.names()).collect();
                        Ok(permission_choices(&names))
                    }),
                    is_required: false,
                    is_guarded: true,
                    get: |group| group.permission_names().collect(),
                    set: |group, entered| {
                        group.permissions = serde_json::from_value::<Vec<String>>(entered.value())?.join(" ");
                        Ok(())
                    },
                },
            ],
        }],
        links: Vec::new(),
        version: Some((|row| row.version, |row, version| row.version = version)),
        facts: |_| Vec::new(),
        actions: Vec::new(),
        before_save: |_, _| Ok(()),
        before_delete: |_, _| Ok(()),
        view_on_site: |_| None,
        dependents: |db, row| {
            let pks = UserGroup::left_pks(db, row.id)?;
            let shown = User::find_many(db, pks.iter().copied().take(MAX_NAMES as usize))?;
            Ok(vec![Dependents::new("These users will no longer be members:", pks.len() as i64, shown.values())])
        },
        // Who could change a group could let himself do everything.
        is_guarded: |_| true,
    }
}

fn log_entries() -> ModelAdmin<LogEntry> {
    ModelAdmin {
        path: "history",
        one: "log entry",
        many: "log entries",
        columns: vec![
            column!(LogEntry.created in log_entry, "When", Kind::Time),
            Column {
                name: "user",
                label: "Who",
                kind: Kind::Text,
                values: |db, rows| {
                    let users = User::find_many(db, rows.iter().filter_map(|row| row.user_id))?;
                    let name =
                        |row: &LogEntry| row.user_id.and_then(|id| users.get(&id)).map(|user| user.username.clone());
                    Ok(rows.iter().map(|row| json!(name(row))).collect())
                },
                order: None,
            },
            Column {
                name: "action",
                label: "Action",
                kind: Kind::Text,
                values: |_, rows| Ok(rows.iter().map(|row| json!(row.action)).collect()),
                order: None,
            },
            column!(LogEntry.model in log_entry, "Model", Kind::Text),
            column!(LogEntry.object_repr in log_entry, "What", Kind::Text),
        ],
        search: Some(Search {
            help: "what it was done with",
            word: |rows, word| rows.filter(lower(log_entry::object_repr).like(word).escape('\\')),
        }),
        filters: vec![
            Filter {
                name: "action",
                label: "Action",
                choices: |_| Ok(["added", "changed", "deleted"].map(|action| Choice::new(action, action)).into()),
                keep: |rows, value, _| rows.filter(log_entry::action.eq(value.to_owned())),
            },
            Filter {
                name: "created",
                label: "When",
                choices: |_| Ok(time_choices()),
                keep: |rows, value, now| rows.filter(log_entry::created.ge(since(value, now))),
            },
        ],
        ordering: "-created",
        per_page: 50,
        blank: None,
        fieldsets: Vec::new(),
        links: Vec::new(),
        version: None,
        facts: |row| {
            vec![
                ("When", Fact::Time(row.created)),
                ("Model", Fact::Text(row.model.clone())),
                ("Number", Fact::Text(row.object_id.to_string())),
                ("Action", Fact::Text(row.action.clone())),
                ("Changes", Fact::Text(row.changes.clone())),
            ]
        },
        actions: Vec::new(),
        before_save: |_, _| Ok(()),
        before_delete: |_, _| Ok(()),
        view_on_site: |_| None,
        dependents: |_, _| Ok(Vec::new()),
        is_guarded: |_| true,
    }
}

/// Refuses what would leave nobody who may do everything: nobody could give that back.
fn keep_a_superuser(db: &mut Db, row: &User) -> Result<()> {
    let may_all = |user: &User| user.is_superuser && user.is_staff && user.is_active;
    let others = |rows: <User as Model>::Rows| {
        let may_all = user::is_superuser.eq(true).and(user::is_staff.eq(true)).and(user::is_active.eq(true));
        rows.filter(may_all).filter(user::id.ne(row.id))
    };
    let was_one = User::find(db, row.id)?.is_some_and(|stored| may_all(&stored));
    if was_one && !may_all(row) && User::count_where(db, others)? == 0 {
        return Err(refusal("This is the last active superuser. Make another one first."));
    }
    Ok(())
}

fn publish(db: &mut Db, pks: &[i64], published: bool) -> Result<usize> {
    let now = db.now().as_millisecond();
    let mut count = 0;
    // A statement takes only so many values.
    for pks in pks.chunks(1000) {
        let others = |rows: <Object as Model>::Rows| {
            rows.filter(object::id.eq_any(pks.to_vec())).filter(object::published.ne(published)).order(object::id)
        };
        count += Object::update_where(db, others, |pks, conn| {
            let set =
                (object::published.eq(published), object::updated.eq(now), object::version.eq(object::version + 1));
            diesel::update(object::table.filter(object::id.eq_any(pks))).set(set).execute(conn)
        })?;
    }
    Ok(count)
}

fn category_choices(db: &mut Db) -> Result<Vec<Choice>> {
    Ok(Category::all(db)?.into_iter().map(|category| Choice::new(category.id, category.name)).collect())
}

fn label_choices(db: &mut Db) -> Result<Vec<Choice>> {
    Ok(Label::all(db)?.into_iter().map(|label| Choice::new(label.id, label.name)).collect())
}

fn time_choices() -> Vec<Choice> {
    [("today", "Today"), ("7-days", "Past 7 days"), ("month", "This month"), ("year", "This year")]
        .map(|(value, label)| Choice::new(value, label))
        .into()
}

/// Returns when a choice of time begins, in milliseconds since 1970. Days begin at midnight UTC, as the pages show them.
fn since(choice: &str, now: Timestamp) -> i64 {
    let now = now.to_zoned(TimeZone::UTC);
    let midnight = |moment: Zoned| moment.start_of_day().ok();
    let begin = match choice {
        "7-days" => now.checked_sub(7.days()).ok().and_then(midnight),
        "month" => now.first_of_month().ok().and_then(midnight),
        "year" => now.first_of_year().ok().and_then(midnight),
        _ => midnight(now),
    };
    begin.map_or(0, |begin| begin.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_begin_at_midnight() {
        let now: Timestamp = "2026-03-05T15:30:00Z".parse().unwrap();
        let begins = |choice: &str, expected: &str| {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(since(choice, now), expected.as_millisecond(), "{choice}");
        };
        begins("today", "2026-03-05T00:00:00Z");
        begins("7-days", "2026-02-26T00:00:00Z");
        begins("month", "2026-03-01T00:00:00Z");
        begins("year", "2026-01-01T00:00:00Z");
    }
}
