//! The JSON Schema of the language, made of the same definitions that decode it.

use serde_json::{Map, Value, json};

use super::decode::{Decode as _, FieldShape};
use super::raw::Root;

/// The sections that were described so far, by name.
#[derive(Debug, Default)]
pub(super) struct Shapes(Map<String, Value>);

/// The JSON Schema (2020-12) of a configuration: what editors complete from. It knows the shape of the file; what
/// depends on several values at once, only loading finds.
#[must_use]
pub fn schema() -> Value {
    let mut shapes = Shapes::default();
    let root = Root::schema(&mut shapes);
    shapes.0.insert(
        "variable".to_owned(),
        json!({
            "description": "Filled in from the environment: ${NAME} or ${NAME:-default}.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        }),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of ratelimit-proxy",
        "allOf": [root],
        "$defs": shapes.0,
    })
}

/// A comment as a description: one line.
fn prose(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn about(comment: &str, later: bool) -> String {
    if later { format!("Not available yet. {}", prose(comment)) } else { prose(comment) }
}

/// A value of that shape, or one that the environment fills in.
pub(super) fn or_variable(shape: Value) -> Value {
    json!({"anyOf": [shape, {"$ref": "#/$defs/variable"}]})
}

/// One of some words.
pub(super) fn words(words: &[(&str, &str, bool)]) -> Value {
    let words: Vec<Value> = words
        .iter()
        .map(|(word, comment, later)| json!({"const": word, "description": about(comment, *later)}))
        .collect();
    or_variable(json!({"oneOf": words}))
}

impl Shapes {
    /// Describes a section, once, and refers to it.
    pub(super) fn section(&mut self, name: &str, comment: &str, fields: &[FieldShape]) -> Value {
        self.shape(name, |shapes| {
            let mut properties = Map::new();
            for field in fields {
                let mut shape = (field.schema)(shapes);
                if let Value::Object(shape) = &mut shape {
                    shape.insert("description".to_owned(), about(field.about, field.later).into());
                }
                properties.insert(field.name.to_owned(), shape);
            }
            let required: Vec<&str> =
                fields.iter().filter(|field| field.required).map(|field| field.name).collect();
            json!({
                "description": prose(comment),
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": false,
            })
        })
    }

    /// Describes something of that name, once, and refers to it.
    pub(super) fn shape(&mut self, name: &str, describe: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.0.contains_key(name) {
            // What a section holds may be such a section again.
            self.0.insert(name.to_owned(), Value::Null);
            let shape = describe(self);
            self.0.insert(name.to_owned(), shape);
        }
        json!({"$ref": format!("#/$defs/{name}")})
    }
}
