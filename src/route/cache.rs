//! What is known of each shape seen, bounded.
//!
//! Owns the map from shape to analysis for one database. Never locks: the caller holds a lock around it,
//! and never across an await. Invariant: every entry was resolved against the catalog now in force.

use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use super::catalog::Routed;
use super::shape::Shape;
use super::statement::Analysis;

/// An analysis, and what it comes to with the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analyzed {
    pub analysis: Analysis,
    pub routed: Routed,
    /// Which of its database's catalogs `routed` was resolved with, counted, and by which lists of functions; whoever keeps
    /// an `Analyzed` across statements has to look whether that is what it goes by itself.
    pub generation: u64,
}

/// Least recently used shapes go first.
pub struct RouteCache {
    entries: LruCache<Shape, Arc<Analyzed>, BuildHasherDefault<ShapeHasher>>,
    bytes: usize,
}

/// What all entries may take together, by `Analysis::bytes`: thousands of usual ones.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// What takes more is not kept: it would be there instead of all that is worth it.
const MAX_ENTRY_BYTES: usize = 512 * 1024;

impl RouteCache {
    pub fn new(capacity: NonZeroUsize) -> Self {
        // Grown as it fills: a database that sees ten shapes does not pay for ten thousand.
        let mut entries = LruCache::unbounded_with_hasher(BuildHasherDefault::default());
        entries.resize(capacity);
        RouteCache { entries, bytes: 0 }
    }

    /// A hit allocates nothing.
    pub fn get(&mut self, shape: Shape) -> Option<&Arc<Analyzed>> {
        self.entries.get(&shape)
    }

    pub fn insert(&mut self, shape: Shape, analyzed: Arc<Analyzed>) {
        let bytes = analyzed.analysis.bytes();
        if bytes > MAX_ENTRY_BYTES {
            return;
        }
        self.bytes += bytes;
        if let Some((_, gone)) = self.entries.push(shape, analyzed) {
            self.bytes -= gone.analysis.bytes();
        }
        while self.bytes > MAX_BYTES
            && let Some((_, gone)) = self.entries.pop_lru()
        {
            self.bytes -= gone.analysis.bytes();
        }
    }

    /// To be called whenever the catalog was replaced: what functions and relations are has changed.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A shape is a keyed hash already; half of it is as good as a hash of it.
#[derive(Default)]
struct ShapeHasher(u64);

impl Hasher for ShapeHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{FunctionLists, analyze, resolve};

    fn analyzed(sql: &str) -> Arc<Analyzed> {
        let analysis = analyze(sql);
        let routed = resolve(&analysis, None, &FunctionLists::default());
        Arc::new(Analyzed { analysis, routed, generation: 0 })
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = RouteCache::new(NonZeroUsize::new(2).unwrap());
        let (one, two, three) = (Shape(1), Shape(2), Shape(1 << 64));
        cache.insert(one, analyzed("select 1"));
        cache.insert(two, analyzed("delete from t"));
        assert!(cache.get(one).is_some());
        cache.insert(three, analyzed("begin"));
        assert!(cache.get(two).is_none());
        assert_eq!(cache.get(one), Some(&analyzed("select 1")));
        assert_eq!(cache.get(three), Some(&analyzed("begin")));
        assert_eq!(cache.len(), 2);
        cache.clear();
        assert!(cache.is_empty() && cache.get(one).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_by_its_size_too() {
        let names =
            |n: usize, of: usize| (0..of).map(|i| format!("f{n}_{i}()")).collect::<Vec<_>>().join(",");
        let mut cache = RouteCache::new(NonZeroUsize::new(8192).unwrap());
        for n in 0..100 {
            cache.insert(Shape(n), analyzed(&format!("select {}", names(n as usize, 4000))));
        }
        let kept: usize = cache.entries.iter().map(|(_, kept)| kept.analysis.bytes()).sum();
        assert!((MAX_BYTES / 2..=MAX_BYTES).contains(&kept), "{kept}");
        assert_eq!(cache.bytes, kept);
        assert!(cache.get(Shape(99)).is_some() && cache.get(Shape(0)).is_none());
        let (count, huge) = (cache.len(), analyzed(&format!("select {}", names(0, 20_000))));
        assert!(huge.analysis.bytes() > MAX_ENTRY_BYTES);
        cache.insert(Shape(1000), huge);
        assert_eq!(cache.len(), count, "one that is not worth it displaces no others");
        cache.insert(Shape(99), analyzed("select 1"));
        let kept: usize = cache.entries.iter().map(|(_, kept)| kept.analysis.bytes()).sum();
        assert_eq!(cache.bytes, kept);
        cache.clear();
        assert_eq!(cache.bytes, 0);
    }
}
