//! The tables as diesel sees them, kept by hand beside `migrations/`.

#![expect(missing_docs, reason = "the table! macro has no place for the docs of what it generates")]

use diesel::{allow_tables_to_appear_in_same_query, joinable, table};

table! {
    object (id) {
        id -> BigInt,
        title -> Text,
        body -> Text,
        published -> Bool,
        created -> BigInt,
        updated -> BigInt,
        version -> BigInt,
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
allow_tables_to_appear_in_same_query!(log_entry, user);
