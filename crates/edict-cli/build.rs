//! Lets the program find libtorch when it runs, where it was found when it was built.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    if env::var_os("CARGO_FEATURE_TCH").is_none() {
        return;
    }
    // Without it edict-tch is not built, and says why.
    if let Some(libtorch) = env::var_os("LIBTORCH") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", PathBuf::from(libtorch).join("lib").display());
    }
}
