//! What operators may do, and where what they change is kept.

use std::path::Path;

use crate::config::decode::Either;
use crate::config::fault::{Faults, shown};
use crate::config::model::{AdminToken, Operators};
use crate::config::raw::Root;

/// A token that is shorter can be guessed.
const SHORT: usize = 16;

/// The file is sought in `base`, the token in the environment.
pub(super) fn operators(
    root: &Root,
    env: &dyn Fn(&str) -> Option<String>,
    base: &Path,
    faults: &mut Faults,
) -> Operators {
    let mut built = Operators::default();
    let Some(Either::Section(section)) = root.admin.get().map(|admin| &admin.value) else { return built };
    if let Some(name) = section.token_env.get() {
        match env(&name.value.0).map(|token| AdminToken::new(&token)) {
            Some(Some(token)) => {
                if token.length() < SHORT {
                    faults.warn(&name.place, format!("a token of less than {SHORT} bytes can be guessed"));
                }
                built.token = Some(token);
            }
            said => {
                let what = if said.is_some() { "is empty" } else { "is not set" };
                let message = format!("the variable {} of the environment {what}", shown(&name.value.0));
                faults.refuse_with(&name.place, message, "token_env names a variable; set it");
            }
        }
    }
    built.overrides_file = section.overrides_file.get().map(|path| base.join(&path.value.0));
    if let (None, Some(listen)) = (&built.token, section.listen.get())
        && section.token_env.is_absent()
        && !listen.value.ip().to_canonical().is_loopback()
    {
        let message = "not on loopback and without token_env: it shows everything and changes nothing";
        faults.warn(&listen.place, message);
    }
    built
}
