//! How properties are tested: where inputs that once failed are kept.
//!
//! Invariant: they are under `tests`, and not where proptest would put them by itself, at the top.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::FileFailurePersistence;

/// As many cases as proptest's default, or as `PROPTEST_CASES` says.
pub fn properties() -> ProptestConfig {
    let kept = FileFailurePersistence::SourceParallel("tests/proptest-regressions");
    ProptestConfig { failure_persistence: Some(Box::new(kept)), ..ProptestConfig::default() }
}

/// More or fewer where one is cheap or dear.
pub fn properties_of(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, ..properties() }
}
