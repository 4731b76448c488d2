//! The configuration: the language it is written in, and what it comes to ([`Config`]).
//!
//! Text goes through four floors, and each tells all its faults with line and column:
//!
//! ```text
//! source   files, pipes, the environment: the only place that reads them
//! tree     YAML (so JSON too) as values with places; bounds on size, depth and aliases
//! raw      the language: one definition of each section decodes it, describes it, knows its nearest names
//! build    what the values mean together: Config
//! ```
//!
//! Nothing is ever ignored.

mod build;
mod decode;
mod fault;
mod leaf;
mod listen;
mod model;
mod otlp;
mod raw;
mod schema;
mod short;
mod source;
mod store;
mod tree;
pub mod words;

use std::path::Path;

pub use self::fault::ConfigFault;
pub use self::listen::{CertificateFiles, Listener, TlsConfig};
pub use self::model::{
    Actual, AdminToken, Balance, ClientIp, Config, Cost, HealthCheck, Late, LimitConfig, LogConfig, LogKeys,
    LogRequests, Match, Missing, Operators, Outcomes, Override, Quota, RlsConfig, ServerConfig, Tiers, Trust,
    Upstream,
};
pub use self::otlp::OtlpConfig;
pub use self::schema::schema;
pub use self::short::{ShortError, limit_from_short};
pub use self::store::{MemoryConfig, RedisConfig, Servers, StoreConfig, StoreUrl, StoreUrlError};

use self::decode::{Decode as _, Here};
pub(crate) use self::fault::nearest;
use self::fault::{Faults, Place};
pub(crate) use self::source::read_regular;

/// A configuration that holds, and what is likely wrong with it all the same.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What to tell the operator, in the order of the file.
    pub warnings: Vec<ConfigFault>,
}

/// Reads a configuration from a file, with the environment of this process.
///
/// # Errors
/// All faults there are, in the order of the file. One without a line if the file can't be read.
pub fn load_file(path: impl AsRef<Path>) -> Result<Loaded, Vec<ConfigFault>> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let refuse = |place: Place, message: String| {
        let mut faults = Faults::new(&name);
        faults.refuse(&place, message);
        faults.into_result().err().unwrap_or_default()
    };
    let bytes =
        source::read(path).map_err(|error| refuse(Place::default(), format!("can't read it: {error}")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let (line, column) = tree::position(&String::from_utf8_lossy(before));
        refuse(Place::top(line, column), "not UTF-8: this is no text".to_owned())
    })?;
    load_str(text, &name, &source::variable, path.parent().unwrap_or_else(|| Path::new("")))
}

/// Reads a configuration from a text. `file_name` is what faults call it, `env` answers for variables, and files
/// that the configuration names are sought in `base_dir`.
///
/// # Errors
/// All faults there are, in the order of the text.
pub fn load_str(
    text: &str,
    file_name: &str,
    env: &dyn Fn(&str) -> Option<String>,
    base_dir: &Path,
) -> Result<Loaded, Vec<ConfigFault>> {
    let mut faults = Faults::new(file_name);
    let config = tree::read(text, env, &mut faults).and_then(|tree| {
        let top = Here::top(&tree);
        let root = raw::Root::decode(&top, &mut faults)?;
        build::config(&root, &top.place, env, base_dir, &mut faults)
    });
    // Without a configuration there is a fault, so that the first arm can't be met without one.
    match (faults.into_result(), config) {
        (Err(faults), _) => Err(faults),
        (Ok(warnings), Some(config)) => Ok(Loaded { config, warnings }),
        (Ok(warnings), None) => Err(warnings),
    }
}
