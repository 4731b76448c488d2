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
    let mut root = Root::schema(&mut shapes);
    shapes.0.insert(
        "variable".to_owned(),
        json!({
            "description": "Filled in from the environment: ${NAME} or ${NAME:-default}.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        }),
    );
    if let Value::Object(root) = &mut root {
        root.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        root.insert("title".to_owned(), "Configuration of ratelimit-proxy".into());
        root.insert("$defs".to_owned(), shapes.0.into());
    }
    root
}

/// A comment as a description: one line.
fn prose(comment: &str) -> String {
    comment.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A value of that shape, or one that the environment fills in.
pub(super) fn or_variable(shape: Value) -> Value {
    json!({"anyOf": [shape, {"$ref": "#/$defs/variable"}]})
}

/// Text, also where YAML would read a number or a switch; a pattern only binds text.
pub(super) fn text(mut rules: Value) -> Value {
    if let Value::Object(rules) = &mut rules {
        rules.insert("type".to_owned(), json!(["string", "number", "boolean"]));
    }
    rules
}

/// One of some words.
pub(super) fn words(words: &[(&str, &str)]) -> Value {
    let words: Vec<Value> =
        words.iter().map(|(word, comment)| json!({"const": word, "description": prose(comment)})).collect();
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
                    shape.insert("description".to_owned(), prose(field.about).into());
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use jsonschema::Validator;

    use super::*;
    use crate::config::fault::Faults;
    use crate::config::tree::{self, Kind, Node};

    const EXAMPLES: [&str; 2] = [
        include_str!("../../tests/end_to_end/config/contract.yaml"),
        include_str!("../../tests/end_to_end/config/living.yaml"),
    ];

    fn validator() -> Validator {
        jsonschema::draft202012::new(&schema()).expect("a schema of 2020-12")
    }

    /// A tree as an editor sees it: `${NAME}` is still there.
    fn seen(node: &Node) -> Value {
        match &node.kind {
            Kind::Null => Value::Null,
            Kind::Unfilled(error) => panic!("{error}"),
            Kind::List(items) => items.iter().map(|item| seen(item)).collect(),
            Kind::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.text.clone(), seen(value)))
                .collect::<Map<_, _>>()
                .into(),
            Kind::Scalar(scalar) => match serde_json::from_str(&scalar.text) {
                Ok(value @ (Value::Number(_) | Value::Bool(_))) if scalar.plain => value,
                _ => scalar.text.clone().into(),
            },
        }
    }

    fn examples() -> impl Iterator<Item = Value> {
        EXAMPLES.into_iter().map(|text| {
            let unfilled = |name: &str| Some(format!("${{{name}}}"));
            seen(&tree::read(text, &unfilled, &mut Faults::new("")).unwrap())
        })
    }

    /// What is wrong with a configuration in JSON.
    fn faults(value: &Value) -> Vec<String> {
        let variables = |name: &str| match name {
            "BURST" => Some("200".to_owned()),
            "UPSTREAM_PORT" => Some("9000".to_owned()),
            "SECRET" => Some("a-token-of-many-letters".to_owned()),
            _ => None,
        };
        let base = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end/config"));
        match crate::config::load_str(&value.to_string(), "", &variables, base) {
            Ok(_) => Vec::new(),
            Err(faults) => faults
                .iter()
                .map(ToString::to_string)
                // The example of the contract leaves out who issues its tokens.
                .filter(|line| !line.contains("whom to believe"))
                .collect(),
        }
    }

    /// Calls `each` with the place of every value within another.
    fn places(value: &Value, at: &str, each: &mut impl FnMut(&str)) {
        each(at);
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    places(value, &format!("{at}/{name}"), each);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    places(value, &format!("{at}/{index}"), each);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_schema_accepts_the_examples() {
        let validator = validator();
        for example in examples() {
            assert_eq!(faults(&example), [""; 0]);
            let errors: Vec<_> =
                validator.iter_errors(&example).map(|e| format!("{}: {e}", e.instance_path())).collect();
            assert_eq!(errors, [""; 0]);
        }
    }

    #[test]
    fn the_schema_and_the_decoder_know_the_same_fields() {
        let validator = validator();
        let mut sections = 0;
        for example in examples() {
            let mut pointers = Vec::new();
            places(&example, "", &mut |at| pointers.push(at.to_owned()));
            for at in pointers {
                let mut changed = example.clone();
                let Some(Value::Object(section)) = changed.pointer_mut(&at) else { continue };
                section.insert("zzz".to_owned(), json!({}));
                let found = faults(&changed);
                assert_eq!(validator.is_valid(&changed), found.is_empty(), "{at}: {found:?}");
                sections += 1;
            }
        }
        assert!(sections > 40, "{sections}");
    }

    #[test]
    fn the_schema_refuses_nothing_that_loads() {
        let validator = validator();
        let values = [
            json!(null),
            json!(true),
            json!(0),
            json!(1),
            json!(1.5),
            json!(-1),
            json!(64),
            json!(""),
            json!("off"),
            json!("x"),
            json!("/a"),
            json!("1/s"),
            json!("5s"),
            json!("client.ip"),
            json!("127.0.0.1:1"),
            json!("${BURST}"),
            json!("${NONE:-1/s}"),
            json!([]),
            json!(["x"]),
            json!(["client.ip"]),
            json!({}),
            json!({"x": "x"}),
        ];
        let (mut loaded, mut refused) = (0, 0);
        for example in examples() {
            let mut pointers = Vec::new();
            places(&example, "", &mut |at| pointers.push(at.to_owned()));
            for (at, value) in pointers.iter().flat_map(|at| values.iter().map(move |value| (at, value))) {
                let mut changed = example.clone();
                *changed.pointer_mut(at).unwrap() = value.clone();
                if faults(&changed).is_empty() {
                    loaded += 1;
                    assert!(validator.is_valid(&changed), "{at} = {value} loads: {changed}");
                } else {
                    refused += usize::from(!validator.is_valid(&changed));
                }
            }
        }
        assert!(loaded > 100 && refused > 1000, "{loaded} {refused}");
    }

    #[test]
    fn every_field_is_described() {
        let schema = schema();
        let sections = schema["$defs"].as_object().unwrap();
        assert!(sections.len() > 25, "{}", sections.len());
        for (name, section) in sections {
            assert!(section["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
            for (field, shape) in section["properties"].as_object().into_iter().flatten() {
                let named = format!("{name}.{field}: {shape}");
                if name != "Tiers" {
                    assert!(shape["description"].as_str().is_some_and(|text| !text.is_empty()), "{named}");
                }
            }
        }
    }
}
