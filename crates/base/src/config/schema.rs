//! The configuration as a JSON Schema, for editors: made of [`KEYS`].
//!
//! # Theory of operation
//! Each key says in words what its value must be; there are few such forms, and [`value`] knows what
//! each means as a schema. A key whose form it does not know has none, which a test finds. What a
//! schema cannot say (no address twice, an address in a prefix, files that are there) is left to
//! `ipvisor check`: what the schema refuses is wrong, what it takes may still be.
//!
//! Dialect: draft 7, the one that editors for TOML understand.

use serde_json::{Map, Value, json};

use super::keys::{KEYS, Key, Table};

/// A name of a network or VM, as a regular expression.
const NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9_-]{0,30}[A-Za-z0-9])?$";
/// An IPv4 or IPv6 address, roughly: what else must hold, `check` says.
const ADDRESS: &str = "[0-9]{1,3}(\\.[0-9]{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*";
/// The highest number of a core that Linux knows.
const LAST_CORE: u32 = 1023;

/// The whole schema.
pub fn schema() -> Value {
    let mut file = table(Table::File);
    if let Some(Value::Object(properties)) = file.get_mut("properties") {
        properties.insert("host".to_owned(), table(Table::Host));
        let variables = json!({
            "type": "object",
            "description": "Texts that stand wherever `${NAME}` is written.",
            "patternProperties": { "^[A-Za-z0-9_-]+$": { "type": "string" } },
            "additionalProperties": false,
        });
        properties.insert("vars".to_owned(), variables);
        for (name, of) in [("network", Table::Network), ("vm", Table::Vm)] {
            let named = json!({
                "type": "object",
                "description": format!("Each {of}, by its name."),
                "patternProperties": { NAME: table(of) },
                "additionalProperties": false,
            });
            properties.insert(name.to_owned(), named);
        }
    }
    let mut whole = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "ipvisor's configuration",
        "description": "Networks, and the virtual machines on them.",
    });
    if let (Value::Object(whole), Value::Object(file)) = (&mut whole, file) {
        whole.extend(file);
    }
    whole
}

/// The schema as a document.
pub fn text() -> String {
    format!("{:#}\n", schema())
}

/// One table with exactly its keys.
fn table(table: Table) -> Value {
    let keys = || KEYS.iter().filter(move |key| key.table == table);
    let required: Vec<&str> = keys().filter(|k| k.default == "required").map(|k| k.name).collect();
    let properties: Map<String, Value> =
        keys().map(|key| (key.name.to_owned(), described(key))).collect();
    let mut made = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if let Value::Object(made) = &mut made
        && !required.is_empty()
    {
        made.insert("required".to_owned(), json!(required));
    }
    let either: Vec<Value> = keys()
        .filter(|key| key.default.starts_with("this or "))
        .map(|key| json!({ "required": [key.name] }))
        .collect();
    if let Value::Object(made) = &mut made
        && !either.is_empty()
    {
        made.insert("anyOf".to_owned(), Value::Array(either));
    }
    made
}

/// A key's value with what people want to know of it.
fn described(key: &Key) -> Value {
    let mut made = value(key.form).unwrap_or_else(|| json!({}));
    if let Value::Object(made) = &mut made {
        let text = format!("{} Without it: {}. As in: {}", key.meaning, key.default, key.example);
        made.insert("description".to_owned(), Value::String(text));
    }
    made
}

/// What a form means as a schema; `None`: it is not known here.
fn value(form: &str) -> Option<Value> {
    if let Some(range) = form.strip_suffix(", or a list of cores") {
        let core = json!({ "type": "integer", "minimum": 0, "maximum": LAST_CORE });
        let cores = json!({ "type": "array", "items": core, "minItems": 1, "uniqueItems": true });
        return Some(json!({ "anyOf": [value(range)?, cores] }));
    }
    if let Some(rest) = form.strip_prefix("\"auto\", or ") {
        return Some(json!({ "anyOf": [{ "const": "auto" }, value(rest)?] }));
    }
    if let Some(range) = form.strip_prefix("a whole number from ") {
        let numbers = || range.split(|c: char| !c.is_alphanumeric()).filter_map(|w| w.parse().ok());
        let (least, most): (u32, u32) = (numbers().min()?, numbers().max()?);
        return Some(json!({ "type": "integer", "minimum": least, "maximum": most }));
    }
    if form.starts_with('"') {
        let words: Vec<&str> = form.split('"').skip(1).step_by(2).collect();
        return Some(json!({ "anyOf": [{ "enum": words }, variable()] }));
    }
    Some(match form {
        "true or false" => json!({ "type": "boolean" }),
        "a path" | "a text" | "a user's name" | "the name of a network" => {
            json!({ "type": "string" })
        }
        "the name of a network interface" => text_like("[!-.0-9;-~]{1,15}"),
        "a host name" => text_like("[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?"),
        "a MAC address" => text_like("[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}"),
        "a size with its unit, M or G" => text_like("[0-9]+ *[MmGgTt]([Ii]?[Bb])?"),
        "a time with its unit: ms, s or m" => text_like("[0-9]+ *(ms|s|m|min|h)"),
        "a list of files and patterns" | "a list of public keys" | "a list of names of VMs" => {
            one_or_many(&json!({ "type": "string" }), None)
        }
        "a list of IP addresses" => one_or_many(&text_like(ADDRESS), None),
        "a list with one IPv4 and one IPv6 address at most" => {
            one_or_many(&text_like(ADDRESS), Some(2))
        }
        "a list of IP prefixes" => {
            one_or_many(&text_like(&format!("({ADDRESS})/[0-9]{{1,3}}")), None)
        }
        "a list of IP addresses and whole prefixes" => {
            one_or_many(&text_like(&format!("({ADDRESS})(/[0-9]{{1,3}})?")), None)
        }
        "a path, or { connect = PATH }" => {
            json!({ "anyOf": [{ "type": "string" }, table(Table::Socket)] })
        }
        "a list of paths, { path, format, readonly } or { image, size }" => {
            one_or_many(&json!({ "anyOf": [{ "type": "string" }, table(Table::Disk)] }), None)
        }
        _ => return None,
    })
}

/// A text that is wholly of this form, or has variables in it.
fn text_like(pattern: &str) -> Value {
    json!({ "type": "string", "pattern": format!("^\\s*({pattern})\\s*$|\\$\\{{") })
}

/// A text with variables in it: what it will be, only `check` knows.
fn variable() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{" })
}

/// A list; one may stand without brackets.
fn one_or_many(item: &Value, most: Option<u32>) -> Value {
    let mut list = json!({ "type": "array", "items": item });
    if let (Some(most), Value::Object(list)) = (most, &mut list) {
        list.insert("maxItems".to_owned(), json!(most));
    }
    json!({ "anyOf": [item, list] })
}

#[cfg(test)]
mod tests;
