//! PyTorch's settings, which the process or each of its threads has once, while every back end has its own.

use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Result, TchError};
use crate::shim;

/// What a back end computes under. Its results' last bits depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Threads of an operation on the processor.
    pub(crate) threads: i32,
    /// Whether PyTorch has to answer a question in one way.
    pub(crate) exact: bool,
}

/// Which setting of the process was made last, if any. Who computes under it reads, who changes it writes.
static EXACT: RwLock<Option<bool>> = RwLock::new(None);

/// Fails if the libtorch that was loaded is not the one that this crate was built with.
pub(crate) fn check_version() -> Result<()> {
    shim::check_version().map_err(|found| TchError::Version { found })
}

impl Settings {
    /// Exact, on as many threads as PyTorch had when this was first called.
    pub(crate) fn exact() -> Self {
        static THREADS: OnceLock<i32> = OnceLock::new();
        let threads = *THREADS.get_or_init(|| {
            let threads = tch::get_num_threads();
            // Until somebody sets a number, MKL takes as many threads for a product as it finds fit. Setting one, whichever, ends that
            // for the whole process, and sums come out differently: it has to be done before the first of them.
            tch::set_num_threads(threads);
            threads
        });
        Self { threads, exact: true }
    }

    /// Makes the settings PyTorch's: the number of threads for this thread, exactness for the process until the guard goes. Not to be
    /// nested.
    pub(crate) fn hold(self) -> Result<RwLockReadGuard<'static, Option<bool>>> {
        // Every thread of the program has a number of its own.
        if tch::get_num_threads() != self.threads {
            tch::set_num_threads(self.threads);
        }
        let made = EXACT.read().unwrap_or_else(PoisonError::into_inner);
        if *made == Some(self.exact) {
            return Ok(made);
        }
        drop(made);
        let mut made = EXACT.write().unwrap_or_else(PoisonError::into_inner);
        if made.is_none() {
            check_version()?;
        }
        *made = None;
        shim::set_exact(self.exact).map_err(|reason| TchError::Settings { reason })?;
        *made = Some(self.exact);
        Ok(RwLockWriteGuard::downgrade(made))
    }
}
