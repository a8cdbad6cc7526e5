//! A function that panics, to see that a bug in an operator stays in its job. Only for tests: it exists where the
//! environment has `HEADWATER_TEST_FUNCTIONS=1`.

use super::rows::*;
use super::{Definition, functions};

/// The argument that it panics at.
const UNLUCKY: i32 = 13;

pub fn functions() -> Vec<Definition> {
    if std::env::var("HEADWATER_TEST_FUNCTIONS").as_deref() != Ok("1") {
        return Vec::new();
    }
    functions! {
        "headwater_test_panic" headwater_test_panic (Int4) -> Int4 = |a| {
            assert!(a != UNLUCKY, "headwater_test_panic({a})");
            Ok(a)
        };
    }
}
