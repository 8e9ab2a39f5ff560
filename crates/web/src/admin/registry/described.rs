//! What the pages ask, answered by a description and its model.

use std::collections::{BTreeMap, BTreeSet};

use larder_models::{Action, Change, Db, Error, Invalid, LogEntry, Model, Page, Password, Result, Verb};
use serde_json::{Value, json};

use super::{
    super::describe::{Choice, Column, Entered, Fact, Field, Filter, ModelAdmin, Widget},
    Asked, Asker, Doomed, Listed, Names, Read, Registered, Row, Sent, ShownColumn, ShownFact, ShownField,
    ShownFieldset, ShownFilter, ShownRow, Stored, Values,
};

/// How much of a search is looked at, in characters: each word costs comparisons in every row.
const MAX_SEARCH_CHARS: usize = 200;

impl<M: Model> ModelAdmin<M> {
    fn fields(&self) -> impl Iterator<Item = &Field<M>> {
        self.fieldsets.iter().flat_map(|set| &set.fields)
    }

    /// Keeps the rows that a list is asked for. What is asked for and does not exist is passed over.
    fn chosen(&self, asked: &Asked, choices: &[Vec<Choice>], now: jiff::Timestamp, mut rows: M::Rows) -> M::Rows {
        if let Some(search) = &self.search {
            let text: String = asked.search.chars().take(MAX_SEARCH_CHARS).collect();
            for word in text.split_whitespace() {
                rows = (search.word)(rows, pattern(word));
            }
        }
        for (filter, choices) in self.filters.iter().zip(choices) {
            let Some(value) = asked.filters.get(filter.name) else { continue };
            if choices.iter().any(|choice| choice.value == *value) {
                rows = (filter.keep)(rows, value, now);
            }
        }
        rows
    }

    fn ordered(&self, asked: &Asked, rows: M::Rows) -> M::Rows {
        let by = |order: &str| {
            let (name, descending) = order.strip_prefix('-').map_or((order, false), |name| (name, true));
            let column = self.columns.iter().find(|column| column.name == name)?;
            column.order.map(|order| (order, descending))
        };
        match by(&asked.order).or_else(|| by(self.ordering)) {
            Some((order, descending)) => order(rows, descending),
            None => rows,
        }
    }

    fn choices(&self, db: &mut Db) -> Result<Vec<Vec<Choice>>> {
        self.filters.iter().map(|filter| (filter.choices)(db)).collect()
    }

    fn values(&self, db: &mut Db, row: &M) -> Result<Values> {
        let mut values: Values = self.fields().map(|field| (field.name, (field.get)(row))).collect();
        for link in &self.links {
            let pks = if row.pk() == 0 { Vec::new() } else { (link.load)(db, row.pk())? };
            values.insert(link.name, pks.iter().map(ToString::to_string).collect());
        }
        Ok(values)
    }

    /// Returns what a list shows of rows.
    fn shown_rows(&self, db: &mut Db, items: &[M]) -> Result<Vec<ShownRow>> {
        let columns: Vec<Vec<Value>> =
            self.columns.iter().map(|column| (column.values)(db, items)).collect::<Result<_>>()?;
        let row = |(at, item): (usize, &M)| ShownRow {
            pk: item.pk(),
            label: item.label(),
            values: columns.iter().map(|values| values.get(at).cloned().unwrap_or_default()).collect(),
        };
        Ok(items.iter().enumerate().map(row).collect())
    }

    /// Tells whether somebody may change and delete all these rows, so far as it depends on them.
    fn may_write(&self, asker: &Asker, rows: &[M]) -> bool {
        asker.is_superuser || !rows.iter().any(self.is_guarded)
    }

    fn found(&self, db: &mut Db, pks: &[i64]) -> Result<Vec<M>> {
        Ok(M::find_many(db, pks.iter().copied())?.into_values().collect())
    }
}

impl<M: Model> Registered for ModelAdmin<M> {
    fn names(&self) -> Names {
        Names {
            path: self.path,
            table: M::TABLE,
            model: M::NAME,
            one: self.one,
            many: self.many,
            search: self.search.as_ref().map(|search| search.help),
            is_editable: self.blank.is_some(),
            actions: self.actions.iter().map(|action| (action.name, action.label)).collect(),
        }
    }

    fn count(&self, db: &mut Db) -> Result<i64> {
        M::count(db)
    }

    fn columns(&self) -> Vec<ShownColumn> {
        let shown = |column: &Column<M>| ShownColumn {
            name: column.name,
            label: column.label,
            kind: column.kind,
            is_ordered: column.order.is_some(),
        };
        self.columns.iter().map(shown).collect()
    }

    fn list(&self, db: &mut Db, asked: &Asked) -> Result<Listed> {
        let (choices, now) = (self.choices(db)?, db.now());
        let choose = |rows| self.chosen(asked, &choices, now, rows);
        let page = M::page(db, asked.page, self.per_page, choose, |rows| self.ordered(asked, rows))?;
        let Page { items, total, page, pages } = page;
        let filter = |(filter, choices): (&Filter<M>, Vec<Choice>)| ShownFilter {
            name: filter.name,
            label: filter.label,
            chosen: asked
                .filters
                .get(filter.name)
                .filter(|value| choices.iter().any(|one| one.value == **value))
                .cloned(),
            choices,
        };
        Ok(Listed {
            rows: self.shown_rows(db, &items)?,
            filters: self.filters.iter().zip(choices).map(filter).collect(),
            total,
            page,
            pages,
        })
    }

    fn pks(&self, db: &mut Db, asked: &Asked) -> Result<Vec<i64>> {
        let (choices, now) = (self.choices(db)?, db.now());
        let rows = self.ordered(asked, self.chosen(asked, &choices, now, M::rows()));
        Ok(M::select_pks(rows, db.conn())?)
    }

    fn rows(&self, db: &mut Db, pks: &[i64]) -> Result<Vec<ShownRow>> {
        let mut found = M::find_many(db, pks.iter().copied())?;
        let items: Vec<M> = pks.iter().filter_map(|pk| found.remove(pk)).collect();
        self.shown_rows(db, &items)
    }

    fn open(&self, db: &mut Db, pk: Option<i64>) -> Result<Option<Row>> {
        let row = match (pk, self.blank) {
            (Some(pk), _) => M::find(db, pk)?,
            (None, Some(blank)) => Some(blank(db.now())),
            (None, None) => None,
        };
        let Some(row) = row else { return Ok(None) };
        let fact = |(label, fact): (&'static str, Fact)| match fact {
            Fact::Text(text) => ShownFact { label, text: Some(text), ms: None },
            Fact::Time(ms) => ShownFact { label, text: None, ms: Some(ms) },
        };
        Ok(Some(Row {
            pk,
            label: row.label(),
            values: self.values(db, &row)?,
            version: self.version.map_or(0, |(get, _)| get(&row)),
            facts: (self.facts)(&row).into_iter().map(fact).collect(),
            view_on_site: pk.and_then(|_| (self.view_on_site)(&row)),
            is_guarded: (self.is_guarded)(&row),
        }))
    }

    fn form(&self, db: &mut Db, asker: &Asker, values: &Values) -> Result<Vec<ShownFieldset>> {
        let value = |name| values.get(name).cloned().unwrap_or_default();
        let mut sets = Vec::new();
        for set in &self.fieldsets {
            let mut fields = Vec::new();
            for field in &set.fields {
                let (widget, choices) = match field.widget {
                    Widget::Line => ("line", None),
                    Widget::Lines => ("lines", None),
                    Widget::Check => ("check", None),
                    Widget::Password => ("password", None),
                    Widget::Select(choices) => ("select", Some(choices)),
                    Widget::Checks(choices) => ("checks", Some(choices)),
                };
                fields.push(ShownField {
                    name: field.name,
                    label: field.label,
                    help: field.help,
                    widget,
                    is_required: field.is_required,
                    is_fixed: field.is_guarded && !asker.is_superuser,
                    value: if widget == "password" { Value::Null } else { shown(value(field.name)) },
                    choices: choices.map(|choices| choices(db)).transpose()?.unwrap_or_default(),
                });
            }
            sets.push(ShownFieldset { title: set.title, fields });
        }
        let mut links = Vec::new();
        for link in &self.links {
            links.push(ShownField {
                name: link.name,
                label: link.label,
                help: link.help,
                widget: "checks",
                is_required: false,
                is_fixed: link.is_guarded && !asker.is_superuser,
                value: value(link.name),
                choices: (link.choices)(db)?,
            });
        }
        if !links.is_empty() {
            sets.push(ShownFieldset { title: "", fields: links });
        }
        Ok(sets)
    }

    fn read(&self, db: &mut Db, asker: &Asker, sent: &Sent) -> Result<Result<Read, Invalid>> {
        let texts = |name: &str| sent.get(name).map(Vec::as_slice).unwrap_or_default();
        let text = |name: &str| texts(name).first().map_or("", String::as_str);
        let (mut read, mut invalid) = (
            Read {
                values: Values::new(),
                version: text("version").parse().unwrap_or(0),
                entered: Vec::new(),
                links: Vec::new(),
            },
            Invalid::default(),
        );
        for field in self.fields().filter(|field| asker.is_superuser || !field.is_guarded) {
            let entered = match field.widget {
                Widget::Line => json!(text(field.name).trim()),
                // Browsers send the line breaks of mail.
                Widget::Lines => json!(text(field.name).replace("\r\n", "\n")),
                Widget::Check => json!(!texts(field.name).is_empty()),
                Widget::Select(choices) => match text(field.name) {
                    "" => Value::Null,
                    chosen if choices(db)?.iter().any(|choice| choice.value == chosen) => {
                        chosen.parse::<i64>().map_or_else(|_| json!(chosen), |number| json!(number))
                    }
                    _ => {
                        invalid.add(field.name, "Choose one of the list. Perhaps yours was deleted meanwhile.");
                        Value::Null
                    }
                },
                Widget::Checks(choices) => {
                    let known: BTreeSet<String> = choices(db)?.into_iter().map(|choice| choice.value).collect();
                    json!(texts(field.name).iter().filter(|value| known.contains(*value)).collect::<Vec<_>>())
                }
                Widget::Password => {
                    match text(field.name) {
                        "" => {}
                        password => match Password::new(password) {
                            Ok(password) => read.entered.push((field.name, Entered::Password(password))),
                            Err(why) => why.iter().for_each(|(_, texts)| {
                                texts.iter().for_each(|text| invalid.add(field.name, text.clone()));
                            }),
                        },
                    }
                    continue;
                }
            };
            read.values.insert(field.name, entered.clone());
            read.entered.push((field.name, Entered::Value(entered)));
        }
        for link in self.links.iter().filter(|link| asker.is_superuser || !link.is_guarded) {
            let known: BTreeSet<String> = (link.choices)(db)?.into_iter().map(|choice| choice.value).collect();
            let chosen: Vec<&String> = texts(link.name).iter().filter(|value| known.contains(*value)).collect();
            read.links.push((link.name, chosen.iter().filter_map(|value| value.parse().ok()).collect()));
            read.values.insert(link.name, json!(chosen));
        }
        Ok(if invalid.is_empty() { Ok(read) } else { Err(invalid) })
    }

    fn save(&self, db: &mut Db, asker: &Asker, pk: Option<i64>, read: Read) -> Result<Option<Stored>> {
        let now = db.now();
        let mut row = match (pk, self.blank) {
            (Some(pk), _) => M::get(db, pk)?,
            (None, Some(blank)) => blank(now),
            (None, None) => return Err(Error::ReadOnly { model: M::NAME }),
        };
        if pk.is_some() && !self.may_write(asker, std::slice::from_ref(&row)) {
            return Ok(None);
        }
        let before = row.fields();
        let old_links = self.names_of_links(db, &row)?;
        for (name, entered) in read.entered {
            let Some(field) = self.fields().find(|field| field.name == name) else { continue };
            (field.set)(&mut row, entered).map_err(|error| Error::abort(format!("{name}: {error}")))?;
        }
        let mut has_changed = !Change::between(&before, &row.fields()).is_empty();
        for (name, pks) in &read.links {
            if let Some(link) = self.links.iter().find(|link| link.name == *name).filter(|_| pk.is_some()) {
                let there: BTreeSet<i64> = (link.load)(db, row.pk())?.into_iter().collect();
                has_changed |= there != pks.iter().copied().collect();
            }
        }
        (self.before_save)(db, &row)?;
        let mut changes = if pk.is_none() {
            row = M::insert_draft(db, row)?;
            Change::between(&[], &row.fields())
        } else if has_changed {
            if let Some((_, set)) = self.version {
                // What the editor saw: if it differs by now, somebody else was faster.
                set(&mut row, read.version);
            }
            row.save(db)?
        } else {
            Vec::new()
        };
        for (name, pks) in read.links {
            if let Some(link) = self.links.iter().find(|link| link.name == name) {
                (link.store)(db, row.pk(), &pks)?;
            }
        }
        let new_links = self.names_of_links(db, &row)?;
        for (name, new) in new_links {
            let old = old_links.get(name).cloned().unwrap_or_default();
            if old != new {
                changes.push(Change { field: name.into(), old: old.into(), new: new.into() });
            }
        }
        let has_changed = !changes.is_empty() || pk.is_none();
        if has_changed {
            let action = if pk.is_none() { Action::Added } else { Action::Changed };
            LogEntry::record(db, asker.id, action, &row, &changes)?;
        }
        let view_on_site = (self.view_on_site)(&row);
        Ok(Some(Stored { pk: row.pk(), label: row.label(), has_changed, view_on_site }))
    }

    fn dependents(&self, db: &mut Db, asker: &Asker, pks: &[i64]) -> Result<Doomed> {
        let rows = self.found(db, pks)?;
        let mut dependents = Vec::new();
        for row in &rows {
            dependents.extend((self.dependents)(db, row)?.into_iter().filter(|some| !some.names.is_empty()));
        }
        // How many there are must be said, their names only to whom may see them.
        for some in dependents.iter_mut().filter(|some| !asker.permissions.allow(some.table, Verb::View)) {
            some.more += some.names.drain(..).count() as i64;
        }
        Ok(Doomed {
            pks: rows.iter().map(M::pk).collect(),
            names: rows.iter().map(M::label).collect(),
            dependents,
            is_guarded: !self.may_write(asker, &rows),
        })
    }

    fn delete(&self, db: &mut Db, asker: &Asker, pks: &[i64]) -> Result<Option<Vec<String>>> {
        let rows = self.found(db, pks)?;
        if !self.may_write(asker, &rows) {
            return Ok(None);
        }
        for row in &rows {
            (self.before_delete)(db, row)?;
            // One by one, for the signals and the history of each.
            // First, because whoever does it may be the one who goes.
            LogEntry::record(db, asker.id, Action::Deleted, row, &[])?;
            row.delete(db)?;
        }
        Ok(Some(rows.iter().map(M::label).collect()))
    }

    fn act(&self, db: &mut Db, asker: &Asker, action: &str, pks: &[i64]) -> Result<Option<(usize, &'static str)>> {
        let Some(action) = self.actions.iter().find(|one| one.name == action) else { return Ok(None) };
        let before = self.found(db, pks)?;
        if !self.may_write(asker, &before) {
            return Ok(None);
        }
        let count = (action.run)(db, pks)?;
        let after = M::find_many(db, pks.iter().copied())?;
        for old in before {
            let Some(new) = after.get(&old.pk()) else { continue };
            let changes = Change::between(&old.fields(), &new.fields());
            if !changes.is_empty() {
                LogEntry::record(db, asker.id, Action::Changed, new, &changes)?;
            }
        }
        Ok(Some((count, action.done)))
    }
}

impl<M: Model> ModelAdmin<M> {
    /// Returns the names of what is linked to a row, for the history.
    fn names_of_links(&self, db: &mut Db, row: &M) -> Result<BTreeMap<&'static str, String>> {
        let mut names = BTreeMap::new();
        for link in &self.links {
            let pks = if row.pk() == 0 { Vec::new() } else { (link.load)(db, row.pk())? };
            let choices = (link.choices)(db)?;
            let label = |pk: &i64| choices.iter().find(|one| one.value == pk.to_string()).map(|one| one.label.clone());
            names.insert(link.name, pks.iter().filter_map(label).collect::<Vec<_>>().join(", "));
        }
        Ok(names)
    }
}

/// Returns a value as a form holds it: numbers are texts there.
fn shown(value: Value) -> Value {
    match value {
        Value::Number(number) => number.to_string().into(),
        other => other,
    }
}

/// Makes the pattern of a word that may be anywhere: its own wildcards stand for themselves.
fn pattern(word: &str) -> String {
    let mut pattern = String::from("%");
    for letter in word.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use larder_models::{Database, NewObject, Object, Signals};

    use super::*;

    /// Lists the objects that are in an empty database, added in this order.
    fn listed(objects: &[NewObject], asked: &[Asked]) -> Vec<Vec<String>> {
        let database = Database::open("sqlite::memory:", Signals::new()).unwrap();
        database.migrate().unwrap();
        database.write(|db| Object::bulk_insert(db, objects.iter().cloned())).unwrap();
        let model = &crate::admin::models::all()[0];
        let list = |asked: &Asked| {
            let listed = database.read(|db| model.list(db, asked)).unwrap();
            listed.rows.into_iter().map(|row| row.label).collect()
        };
        asked.iter().map(list).collect()
    }

    #[test]
    fn every_word_of_a_search_must_occur_in_whatever_case() {
        let objects = [
            ("Copper jam pan", "For quinces. 100% copper."),
            ("Jam spoon", "Of ÖLBAUM wood, snake_case."),
            ("Crock", r"For sauerkraut; marked C:\larder."),
        ];
        let objects =
            objects.map(|(title, body)| NewObject { title: title.into(), body: body.into(), ..NewObject::default() });
        let (long, many) = ("x".repeat(1_000_000), "jam ".repeat(10_000));
        let searches: [(&str, &[&str]); 12] = [
            ("  jam ", &["Copper jam pan", "Jam spoon"]),
            ("JAM QUINCE", &["Copper jam pan"]),
            ("ölbaum", &["Jam spoon"]),
            ("%", &["Copper jam pan"]),
            ("_", &["Jam spoon"]),
            (r"\", &["Crock"]),
            ("100% copper", &["Copper jam pan"]),
            ("jam crock", &[]),
            ("' OR 1=1 --", &[]),
            ("", &["Copper jam pan", "Crock", "Jam spoon"]),
            (&many, &["Copper jam pan", "Jam spoon"]),
            (&long, &[]),
        ];
        let asked =
            searches.map(|(search, _)| Asked { search: search.into(), order: "title".into(), ..Asked::default() });
        for ((search, expected), found) in searches.into_iter().zip(listed(&objects, &asked)) {
            assert_eq!(found, expected, "{search:.20}");
        }
    }

    #[test]
    fn a_list_is_ordered_by_a_column_and_then_by_number() {
        let objects = [("b", true), ("A", false), ("a", true), ("c", false)];
        let objects =
            objects.map(|(title, published)| NewObject { title: title.into(), published, ..NewObject::default() });
        let orders = [
            ("title", "Aabc"),
            ("-title", "cbaA"),
            ("published", "Acba"),
            ("-published", "abcA"),
            ("created", "bAac"),
            ("-updated", "caAb"),
            ("", "caAb"),
            ("password", "caAb"),
            ("--title", "caAb"),
        ];
        let asked = orders.map(|(order, _)| Asked { order: order.into(), ..Asked::default() });
        for ((order, expected), found) in orders.into_iter().zip(listed(&objects, &asked)) {
            assert_eq!(found.concat(), expected, "{order}");
        }
    }

    #[test]
    fn wildcards_in_a_search_stand_for_themselves() {
        assert_eq!(pattern("50%_\\Ä"), "%50\\%\\_\\\\ä%");
    }
}
