//! The watcher: which tables a statement writes that no model made, raw SQL included.
//!
//! It reads the SQL of each statement that was run. A table is what follows `INSERT INTO`, `UPDATE`, `DELETE FROM`, `MERGE
//! INTO`, `REPLACE INTO`, `TRUNCATE`, `COPY`, `REFRESH MATERIALIZED VIEW` or `ALTER` and `DROP TABLE`, anywhere in the text,
//! so those in a `WITH` too. What a function, a trigger or a foreign key writes is not in the text, nor what a view is of, nor
//! a statement that was prepared before: [`Watch::writes_also`] says so, or [`Db::invalidate_table`](crate::Db::invalidate_table).

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use diesel::connection::{Instrumentation, InstrumentationEvent};

use crate::invalidation::of_table;

/// Where diesel notes which migrations were applied, and where this crate notes what is stale.
const OWN: [&str; 2] = ["__diesel_schema_migrations", "outbox"];

/// What is said of writes that no model makes. See [`Database::watch`](crate::Database::watch).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    ignored: BTreeSet<String>,
    also: BTreeMap<String, Vec<String>>,
}

impl Watch {
    /// Watches all tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets tables be that nothing cached shows.
    #[must_use]
    pub fn ignore<T: Into<String>>(mut self, tables: impl IntoIterator<Item = T>) -> Self {
        self.ignored.extend(tables.into_iter().map(|table| table.into().to_lowercase()));
        self
    }

    /// Says which other tables the database writes when this one is written, by a model too: by triggers, by
    /// `ON DELETE CASCADE`.
    #[must_use]
    pub fn writes_also<T: Into<String>>(
        mut self,
        table: impl Into<String>,
        others: impl IntoIterator<Item = T>,
    ) -> Self {
        let others = others.into_iter().map(|table| table.into().to_lowercase());
        self.also.entry(table.into().to_lowercase()).or_default().extend(others);
        self
    }

    /// Returns the tables that are written when this one is, without it.
    pub(crate) fn written_with(&self, table: &str) -> BTreeSet<String> {
        let mut written = BTreeSet::new();
        self.follow(table.to_lowercase(), &mut written);
        written.remove(&table.to_lowercase());
        written
    }

    /// Adds the tables that are written when this one is.
    fn follow(&self, table: String, written: &mut BTreeSet<String>) {
        if OWN.contains(&&*table) || self.ignored.contains(&table) || !written.insert(table.clone()) {
            return;
        }
        for other in self.also.get(&table).into_iter().flatten() {
            self.follow(other.clone(), written);
        }
    }
}

/// What was seen on a connection.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Whether a statement has failed that nobody took back yet.
    failed: AtomicBool,
    /// Whether a model is writing, which says by itself what it makes stale.
    quiet: AtomicBool,
    /// The tables that others have written in the open transaction, in that order.
    written: Mutex<Vec<String>>,
}

impl Seen {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn forget_failure(&self) {
        self.failed.store(false, Ordering::Relaxed);
    }

    /// Lets writes be from now on, or no longer; returns what held before.
    pub(crate) fn set_quiet(&self, quiet: bool) -> bool {
        self.quiet.swap(quiet, Ordering::Relaxed)
    }

    /// Returns how many writes of tables were seen.
    pub(crate) fn count(&self) -> usize {
        self.written().len()
    }

    /// Forgets the later ones of them.
    pub(crate) fn truncate(&self, count: usize) {
        self.written().truncate(count);
    }

    /// Forgets the later ones of them that were of this table.
    pub(crate) fn forget(&self, count: usize, table: &str) {
        let mut written = self.written();
        let from = count.min(written.len());
        let later = written.split_off(from);
        written.extend(later.into_iter().filter(|name| !name.eq_ignore_ascii_case(table)));
    }

    /// Returns the tables that were written, and forgets them.
    pub(crate) fn take(&self) -> BTreeSet<String> {
        mem::take(&mut *self.written()).into_iter().collect()
    }

    fn written(&self) -> MutexGuard<'_, Vec<String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A statement that was run. See [`Database::observe_queries`](crate::Database::observe_queries).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Query<'a> {
    /// Its text, with the values behind it as diesel writes them: ` -- binds: [7]`.
    pub sql: &'a str,
    /// How long the database took.
    pub took: Duration,
    /// Whether it failed.
    pub has_failed: bool,
}

impl Query<'_> {
    /// Returns the text without the values.
    ///
    /// # Examples
    /// See [`Database::observe_queries`](crate::Database::observe_queries).
    pub fn statement(&self) -> &str {
        without_values(self.sql)
    }
}

/// Is told of each statement.
pub(crate) type QueryObserver = Box<dyn Fn(&Query<'_>) + Send + Sync>;

/// What is to be done with the statements that are seen.
#[derive(Default)]
pub(crate) struct Watched {
    /// Set if writes are watched.
    pub(crate) watch: OnceLock<Watch>,
    pub(crate) observer: OnceLock<QueryObserver>,
}

/// Sees the statements of a connection.
pub(crate) struct Watcher {
    seen: Arc<Seen>,
    watched: Arc<Watched>,
    /// When the statement began that is being run, if somebody wants to know.
    begun: Option<Instant>,
}

impl Watcher {
    pub(crate) fn new(seen: Arc<Seen>, watched: Arc<Watched>) -> Self {
        Watcher { seen, watched, begun: None }
    }
}

impl Instrumentation for Watcher {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        let (query, error) = match event {
            InstrumentationEvent::StartQuery { .. } => {
                self.begun = self.watched.observer.get().map(|_| Instant::now());
                return;
            }
            InstrumentationEvent::FinishQuery { query, error, .. } => (query, error),
            _ => return,
        };
        if let (Some(observer), Some(begun)) = (self.watched.observer.get(), self.begun.take()) {
            let took = begun.elapsed();
            observer(&Query { sql: &query.to_string(), took, has_failed: error.is_some() });
        }
        // A statement that failed may have written before that: one of several, or some of its rows.
        if error.is_some() {
            self.seen.failed.store(true, Ordering::Relaxed);
        }
        let is_quiet = self.seen.quiet.load(Ordering::Relaxed);
        let Some(watch) = self.watched.watch.get().filter(|_| !is_quiet) else { return };
        let mut written = BTreeSet::new();
        let text = query.to_string();
        for table in written_tables(without_values(&text)) {
            watch.follow(table, &mut written);
        }
        if !written.is_empty() {
            // The transaction's own reads must not find what it has changed.
            larder_cache::transaction::change(written.iter().flat_map(|table| of_table(table)), []);
            self.seen.written().extend(written);
        }
    }
}

/// Leaves out the values, which diesel writes behind; it may be much.
fn without_values(text: &str) -> &str {
    text.rfind(" -- binds: [").map_or(text, |end| &text[..end])
}

/// A piece of SQL that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword or a name, in lower case.
    Word(String),
    /// A name that was quoted.
    Name(String),
    Dot,
    Comma,
    /// Anything else.
    Other,
}

/// Returns the tables that a text of SQL writes; of names with a schema the last part.
fn written_tables(sql: &str) -> BTreeSet<String> {
    let tokens = tokens(sql);
    let word = |at: usize| match tokens.get(at) {
        Some(Token::Word(word)) => word.as_str(),
        _ => "",
    };
    let name = |at: usize| match tokens.get(at) {
        Some(Token::Word(name) | Token::Name(name)) => Some(name.clone()),
        _ => None,
    };
    let mut tables = BTreeSet::new();
    for at in 0..tokens.len() {
        let before = if at == 0 { "" } else { word(at - 1) };
        let mut next = at + 1;
        let is_write = match word(at) {
            "into" => true,
            // FOR UPDATE, ON UPDATE CASCADE; and DO UPDATE SET, THEN UPDATE SET, which name the table elsewhere.
            "update" => !matches!(before, "for" | "key" | "on" | "before" | "after" | "of") && word(next) != "set",
            "from" => before == "delete",
            "truncate" => true,
            "copy" => at == 0 || tokens.get(at - 1) == Some(&Token::Other),
            "view" => before == "materialized" && at > 1 && word(at - 2) == "refresh",
            "table" => matches!(before, "alter" | "drop"),
            _ => false,
        };
        if !is_write {
            continue;
        }
        loop {
            // UPDATE OR IGNORE, DROP TABLE IF EXISTS, DELETE FROM ONLY.
            while matches!(
                word(next),
                "concurrently"
                    | "only"
                    | "or"
                    | "ignore"
                    | "replace"
                    | "rollback"
                    | "abort"
                    | "fail"
                    | "table"
                    | "if"
                    | "exists"
            ) {
                next += 1;
            }
            while tokens.get(next + 1) == Some(&Token::Dot) {
                next += 2;
            }
            tables.extend(name(next).map(|name| name.to_lowercase()));
            // TRUNCATE a, b
            if word(at) == "truncate" && tokens.get(next + 1) == Some(&Token::Comma) {
                next += 2;
            } else {
                break;
            }
        }
    }
    tables
}

fn tokens(sql: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            _ if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            _ if rest.starts_with("/*") => comment_len(rest),
            '\'' => {
                tokens.push(Token::Other);
                quoted_len(rest, '\'')
            }
            '"' | '`' | '[' => {
                let len = quoted_len(rest, if first == '[' { ']' } else { first });
                tokens.push(Token::Name(rest[..len].trim_matches(['"', '`', '[', ']']).to_owned()));
                len
            }
            '$' => {
                tokens.push(Token::Other);
                match dollar_quoted(rest) {
                    Some((len, inside)) => {
                        // The text of a function, perhaps.
                        tokens.extend(self::tokens(inside));
                        len
                    }
                    None => 1,
                }
            }
            'e' | 'E' if rest[1..].starts_with('\'') => {
                tokens.push(Token::Other);
                escaped_len(rest)
            }
            first if first.is_alphabetic() || first == '_' => {
                let len = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
                tokens.push(Token::Word(rest[..len].to_lowercase()));
                len
            }
            '.' => {
                tokens.push(Token::Dot);
                1
            }
            ',' => {
                tokens.push(Token::Comma);
                1
            }
            first => {
                if !first.is_whitespace() {
                    tokens.push(Token::Other);
                }
                first.len_utf8()
            }
        };
        rest = &rest[len..];
    }
    tokens
}

/// Returns the length of what is between these marks, them included; a doubled mark stands for itself.
fn quoted_len(text: &str, mark: char) -> usize {
    let mut at = 1;
    while let Some(found) = text[at..].find(mark) {
        at += found + 1;
        if !text[at..].starts_with(mark) || mark == ']' {
            return at;
        }
        at += 1;
    }
    text.len()
}

/// Returns the length of `E'…'`, in which a backslash takes the next character's meaning.
fn escaped_len(text: &str) -> usize {
    let mut rest = text.char_indices().skip(2).peekable();
    while let Some((at, letter)) = rest.next() {
        match letter {
            '\\' => drop(rest.next()),
            '\'' if rest.peek().is_some_and(|(_, next)| *next == '\'') => drop(rest.next()),
            '\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of a comment, with those inside of it.
fn comment_len(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Returns the length of a text between `$tag$` and `$tag$`, them included, and the text. A bind, `$1`, is none.
fn dollar_quoted(text: &str) -> Option<(usize, &str)> {
    let tag_len = text[1..].find('$')? + 2;
    let (tag, rest) = text.split_at(tag_len);
    let name = &tag[1..tag_len - 1];
    let is_tag =
        !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_tag.then(|| rest.find(tag).map_or((text.len(), rest), |end| (tag_len + end + tag_len, &rest[..end])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sql: &str) -> Vec<String> {
        written_tables(sql).into_iter().collect()
    }

    #[test]
    fn tables_that_are_written_are_found() {
        for (sql, tables) in [
            ("INSERT INTO object (title) VALUES ('a')", "object"),
            ("insert or ignore into \"object\" values (1)", "object"),
            ("REPLACE INTO `object` VALUES (1)", "object"),
            ("UPDATE object SET title = 'DELETE FROM user'", "object"),
            ("UPDATE OR REPLACE main.object SET a = 1", "object"),
            ("UPDATE ONLY public.\"Object\" SET a = 1", "object"),
            ("DO $x$ BEGIN IF true THEN UPDATE object SET a = 1; END IF; END $x$", "object"),
            ("SELECT E'\\'', 'x'; UPDATE object SET a = 1", "object"),
            ("SELECT E'a''b\\\\'; UPDATE object SET a = 1", "object"),
            ("REFRESH MATERIALIZED VIEW CONCURRENTLY object", "object"),
            ("SELECT 1; COPY object FROM STDIN", "object"),
            ("DELETE FROM [object] WHERE id IN (SELECT id FROM label)", "object"),
            ("DELETE FROM only object", "object"),
            ("WITH gone AS (DELETE FROM object RETURNING id) INSERT INTO old SELECT id FROM gone", "object old"),
            ("INSERT INTO object (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET title = 'x'", "object"),
            ("MERGE INTO object USING new ON true WHEN MATCHED THEN UPDATE SET a = 1", "object"),
            ("TRUNCATE object", "object"),
            ("TRUNCATE TABLE object, public.label CASCADE", "label object"),
            ("COPY object FROM STDIN", "object"),
            ("DROP TABLE IF EXISTS object", "object"),
            ("ALTER TABLE object ADD COLUMN a INT", "object"),
            ("SELECT 1; UPDATE object SET a = 1; DELETE FROM label;", "label object"),
            ("/* DELETE /* FROM */ user */ UPDATE object -- user\n SET a = 1", "object"),
            ("SELECT id INTO copy FROM object", "copy"),
            ("UPDATE \"object\" SET \"title\" = $1 WHERE id = $2 -- binds: [\"DELETE FROM user\", 1]", "object"),
            ("DO $x$ BEGIN DELETE FROM label; END $x$; UPDATE object SET a = $1", "label object"),
            ("SELECT $$it's$$, $2; DELETE FROM object", "object"),
        ] {
            assert_eq!(written(sql), tables.split(' ').collect::<Vec<_>>(), "{sql}");
        }
    }

    #[test]
    fn reads_write_nothing() {
        for sql in [
            "",
            "SELECT * FROM object FOR UPDATE",
            "SELECT * FROM object FOR NO KEY UPDATE",
            "SELECT 'INSERT INTO object', \"into\".a FROM \"update\"",
            "BEGIN IMMEDIATE",
            "PRAGMA data_version",
            "SELECT 'it''s; DELETE FROM object'",
            "CREATE TABLE a (b INT REFERENCES object ON UPDATE CASCADE)",
            "SELECT 'unfinished",
            "/* unfinished",
            "$",
            "SELECT $1, $2",
        ] {
            assert_eq!(written(sql), [""; 0], "{sql}");
        }
    }

    #[test]
    fn what_is_written_along_is_followed_once() {
        let watch = Watch::new()
            .ignore(["session"])
            .writes_also("category", ["object", "session"])
            .writes_also("object", ["category"]);
        let mut written = BTreeSet::new();
        watch.follow("category".to_owned(), &mut written);
        assert_eq!(written.into_iter().collect::<Vec<_>>(), ["category", "object"]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            written_tables(&text);
        }

        #[test]
        fn text_of_sql_is_read(text in "[-/*'\"`$.,a-z \n\\[\\]]{0,40}") {
            written_tables(&text);
        }
    }
}
