//! The tables as diesel sees them, kept by hand beside `migrations/`.

#![expect(missing_docs, reason = "the table! macro has no place for the docs of what it generates")]

use diesel::{allow_tables_to_appear_in_same_query, joinable, table};

table! {
    object (id) {
        id -> BigInt,
        title -> Text,
        body -> Text,
        published -> Bool,
        category_id -> Nullable<BigInt>,
        created -> BigInt,
        updated -> BigInt,
        version -> BigInt,
    }
}

table! {
    category (id) {
        id -> BigInt,
        name -> Text,
        version -> BigInt,
    }
}

table! {
    label (id) {
        id -> BigInt,
        name -> Text,
        version -> BigInt,
    }
}

table! {
    object_label (object_id, label_id) {
        object_id -> BigInt,
        label_id -> BigInt,
    }
}

table! {
    user (id) {
        id -> BigInt,
        username -> Text,
        password -> Text,
        is_staff -> Bool,
        is_active -> Bool,
        created -> BigInt,
        is_superuser -> Bool,
        version -> BigInt,
    }
}

table! {
    staff_group (id) {
        id -> BigInt,
        name -> Text,
        permissions -> Text,
        version -> BigInt,
    }
}

table! {
    user_group (user_id, group_id) {
        user_id -> BigInt,
        group_id -> BigInt,
    }
}

table! {
    log_entry (id) {
        id -> BigInt,
        user_id -> Nullable<BigInt>,
        model -> Text,
        object_id -> BigInt,
        object_repr -> Text,
        action -> Text,
        changes -> Text,
        created -> BigInt,
    }
}

table! {
    session (id) {
        id -> Text,
        state -> Text,
        expires -> BigInt,
    }
}

joinable!(log_entry -> user (user_id));
joinable!(object -> category (category_id));
joinable!(object_label -> label (label_id));
joinable!(object_label -> object (object_id));
allow_tables_to_appear_in_same_query!(category, label, object, object_label);
allow_tables_to_appear_in_same_query!(log_entry, user);

table! {
    outbox (id) {
        id -> BigInt,
        origin -> Text,
        invalidation -> Text,
        created -> BigInt,
        delivered -> Bool,
    }
}
