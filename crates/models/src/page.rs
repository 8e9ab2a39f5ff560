//! A list cut into pages.

use serde::Serialize;

/// How many items a page has if the caller does not say, and the most it may ask for.
const DEFAULT_PER_PAGE: u32 = 20;
const MAX_PER_PAGE: u32 = 200;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The items on this page.
    pub items: Vec<T>,
    /// How many items the whole list has.
    pub total: i64,
    /// Which page this is, from 1. The nearest one there is, if another one was asked for.
    pub page: u32,
    /// How many pages there are; 1 for an empty list.
    pub pages: u32,
}

/// Which rows make a page.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) page: u32,
    pub(crate) pages: u32,
    pub(crate) limit: i64,
    pub(crate) offset: i64,
}

/// Cuts a list. A page of 0 is the first one, 0 items per page are the default.
pub(crate) fn cut(total: i64, page: u32, per_page: u32) -> Cut {
    let limit = match per_page {
        0 => DEFAULT_PER_PAGE,
        asked => asked.min(MAX_PER_PAGE),
    };
    let total = u64::try_from(total).unwrap_or(0);
    let pages = u32::try_from(total.div_ceil(limit.into())).unwrap_or(u32::MAX).max(1);
    let page = page.clamp(1, pages);
    Cut { page, pages, limit: limit.into(), offset: i64::from(page - 1) * i64::from(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_outside_the_list_become_the_nearest_one() {
        for (total, page, per_page, expected) in [
            (0, 0, 10, (1, 1, 10, 0)),
            (10, 1, 10, (1, 1, 10, 0)),
            (11, 2, 10, (2, 2, 10, 10)),
            (11, 9, 10, (2, 2, 10, 10)),
            (11, u32::MAX, 10, (2, 2, 10, 10)),
            (50, 2, 0, (2, 3, 20, 20)),
            (500, 1, 1_000, (1, 3, 200, 0)),
        ] {
            let cut = cut(total, page, per_page);
            assert_eq!((cut.page, cut.pages, cut.limit, cut.offset), expected, "{total} {page} {per_page}");
        }
    }
}
