//! The same work on several threads.

use std::num::NonZeroUsize;

/// Runs `work` on so many threads, the calling one among them, until all have ended. Returns what each came to.
pub fn run_on<T: Send>(threads: NonZeroUsize, work: impl Fn() -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.get()).map(|_| scope.spawn(&work)).collect();
        let mut results = vec![work()];
        let joined = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        results.extend(joined);
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_thread_does_its_share() {
        let next = AtomicUsize::new(0);
        let mut results = run_on(NonZeroUsize::new(4).unwrap(), || next.fetch_add(1, Ordering::Relaxed));
        results.sort_unstable();
        assert_eq!(results, [0, 1, 2, 3]);
    }
}
