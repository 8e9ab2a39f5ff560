//! The app that shows Larder at work: pages at four levels of caching, an admin whose edits invalidate them, and the
//! command line.

pub mod address;
pub mod admin;
pub mod app;
pub mod cli;
pub mod error_pages;
pub mod failure;
pub mod logging;
pub mod observe;
pub mod pages;
pub mod peer;
pub mod secrets;
pub mod session;
pub mod settings;
pub mod state;
pub mod text;
pub mod toolbar;
