//! Which Python has moto's server.

use std::env;
use std::path::{Path, PathBuf};

/// Names one. For `make`, which sets up a virtual environment.
pub const PYTHON: &str = "KOMAINU_PYTHON";
/// Beside `release/komainu` and `debug/komainu`, where `make` puts it.
const BESIDE_THE_BUILD: &str = "../venv/bin/python";

/// The one that is named, else the one that `make` set up beside this program, else the system's.
pub fn find() -> PathBuf {
    if let Some(named) = env::var_os(PYTHON) {
        return named.into();
    }
    let built = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(BESIDE_THE_BUILD)));
    built.filter(|python| Path::exists(python)).unwrap_or_else(|| "python3".into())
}
