//! The suite that every store passes, for the stores of this crate and for your own.
//!
//! Implement [`Harness`] for your store and expand [`conformance!`](crate::conformance!) in a test file: it makes a
//! named test of every case. Most cases work through [`BlockingCache`], so they prove what users see: verbs, timeouts,
//! versions, prefixes, tags. Those on compare-and-swap, and on what a store says about itself, ask the store.
//!
//! [`chaos`] makes any store fail, for tests of what is built on stores.

pub mod cases;
pub mod chaos;
pub mod server;
pub mod simulation;

use std::{sync::Arc, time::Duration};

use crate::{BlockingCache, Caches, backend::Backend, clock::Clock, settings::AliasSettings};

/// Opens the store under test. Each test makes a harness of its own, which starts with an empty store.
pub trait Harness: Send + Sync + 'static {
    /// Opens the store once more, as another process would: all handles of one harness are one store.
    fn open(&self) -> Box<dyn Backend>;

    /// Returns the clock that the store measures expiry by.
    fn clock(&self) -> Clock;

    /// Lets so much time pass that an entry with this timeout has expired, and no more than a second above that.
    fn wait(&self, timeout: Duration);

    /// Returns a cache over the store with these settings; the backend in them is ignored.
    fn cache_with(self: &Arc<Self>, settings: AliasSettings) -> BlockingCache
    where
        Self: Sized,
    {
        let harness = Arc::clone(self);
        let settings = AliasSettings { backend: "under test".into(), ..settings };
        let built = Caches::builder()
            .backend("under test", move |_| Ok(harness.open()))
            .clock(self.clock())
            .alias("default", settings)
            .build();
        match built {
            Ok(caches) => caches.default_cache().blocking(),
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns a cache over the store with default settings.
    fn cache(self: &Arc<Self>) -> BlockingCache
    where
        Self: Sized,
    {
        self.cache_with(AliasSettings::default())
    }
}

/// Makes a test of every case of the suite; the argument is an expression that makes a [`Harness`].
///
/// A store that [says](crate::backend::Capabilities::stores) that it keeps nothing has a suite of its own. Cases on what
/// else a store says, such as its largest value or who shares it, pass where it does not say so.
///
/// ```text
/// mod my_store {
///     larder_cache::conformance!(MyHarness::new());
/// }
///
/// mod my_black_hole {
///     larder_cache::conformance!(keeps_nothing; MyOtherHarness::new());
/// }
/// ```
#[macro_export]
macro_rules! conformance {
    (keeps_nothing; $harness:expr) => {
        $crate::conformance!(
            $harness;
            it_says_that_it_keeps_nothing_and_does_not,
            all_handles_say_the_same,
            all_writes_succeed_and_all_reads_miss,
            every_add_succeeds,
            there_is_nothing_to_touch_delete_or_count,
            get_or_set_loads_each_time,
            there_is_nothing_to_replace,
        );
    };
    ($harness:expr) => {
        $crate::conformance!(
            $harness;
            it_says_that_it_keeps_things_and_does,
            all_handles_say_the_same,
            the_largest_value_is_taken_and_one_byte_more_is_not,
            what_is_shared_is_seen_through_another_handle,
            of_two_handles_that_race_for_a_key_one_wins,
            values_of_all_types_read_back,
            a_cached_none_is_a_hit,
            bytes_read_back_as_they_are,
            a_missing_key_is_none,
            set_replaces_value_and_timeout,
            an_entry_expires_after_its_timeout,
            an_entry_that_never_expires_stays,
            a_timeout_of_zero_or_less_stores_nothing_and_removes_the_old_value,
            a_timeout_over_thirty_days_works,
            the_default_timeout_comes_from_the_settings,
            add_stores_only_what_is_missing,
            add_replaces_an_expired_entry,
            add_with_a_timeout_of_zero_stores_nothing,
            touch_gives_a_new_timeout,
            touch_of_a_missing_key_does_nothing,
            touch_does_not_bring_an_expired_value_back,
            touch_with_a_timeout_of_zero_expires_the_entry,
            delete_tells_whether_something_was_there,
            batches_do_what_single_verbs_do,
            counters_count_up_and_down_and_below_zero,
            counters_keep_their_timeout,
            counters_stop_at_their_bounds,
            only_integers_count,
            a_missing_key_does_not_count,
            counting_from_many_threads_loses_nothing,
            one_of_many_adds_wins,
            versions_are_apart,
            incr_version_moves_the_value_with_the_time_it_has_left,
            prefixes_are_apart,
            long_and_odd_keys_work_and_stay_apart,
            has_key_tells_without_reading,
            clear_removes_everything,
            a_value_over_the_limit_is_refused_and_the_old_one_is_gone,
            another_handle_sees_the_same_entries,
            an_invalidated_tag_makes_its_entries_stale,
            a_tag_invalidated_while_loading_wins,
            add_replaces_an_entry_that_a_tag_made_stale,
            tags_end_with_a_clear,
            get_or_set_loads_once,
            get_or_set_keeps_no_error,
            get_or_set_replaces_what_it_cannot_read,
            get_or_set_keeps_what_was_stored_meanwhile,
            replace_needs_the_value_that_is_there,
            large_values_are_compared_to_their_last_byte,
            what_is_missing_or_has_expired_is_not_replaced,
            what_was_deleted_overwritten_or_cleared_is_not_replaced,
            a_replaced_value_has_the_new_expiry,
            replace_with_an_expiry_that_has_passed_removes_the_value,
            a_replaced_counter_counts_on,
            batches_add_and_replace_as_single_calls_do,
            counting_by_replace_from_many_threads_loses_nothing,
            one_of_many_replacements_wins,
            a_deletion_wins_over_what_is_being_computed,
            a_replacement_over_the_limit_is_refused_and_the_old_value_stays,
            what_is_loaded_while_its_row_changes_is_never_served,
            what_is_loaded_while_another_value_is_stored_is_never_served,
            what_is_loaded_while_the_store_is_cleared_is_never_served,
            what_is_refreshed_while_its_row_changes_is_never_served,
            what_is_refreshed_early_while_its_row_changes_is_never_served,
            what_is_refreshed_in_the_background_while_its_row_changes_is_never_served,
            tags_found_while_loading_invalidate,
            what_is_made_of_an_entry_depends_on_what_that_does,
            what_is_loaded_while_a_tag_that_it_finds_is_invalidated_is_never_served,
            no_reader_sees_less_than_was_invalidated_before_he_asked,
            of_many_callers_in_three_processes_one_loads,
            many_keys_are_loaded_by_one_call_and_what_is_overtaken_is_not_stored,
            a_load_of_many_keys_that_fails_stands_in_nobody_s_way,
            an_expired_value_is_left_to_those_who_may_serve_it_stale,
            ttl_is_the_time_for_which_a_value_is_fresh,
            a_prefix_is_cleared_with_what_is_being_loaded_under_it,
            a_stale_value_is_served_instead_of_an_error,
            touch_keeps_the_time_for_which_a_value_may_be_served_stale,
            large_values_read_back_compressed_or_not,
            a_near_copy_is_served_no_longer_than_its_bound,
            what_this_process_changes_it_sees_at_once_in_spite_of_copies,
        );
    };
    ($harness:expr; $($case:ident),+ $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::cases::$case(&::std::sync::Arc::new($harness));
            }
        )+
    };
}
