//! Python's pickle, of what JSON can hold: protocol 2, which every Python reads.
#![forbid(unsafe_code)]

use serde_json::Value;

/// A value as pickle.
pub(super) fn bytes(value: &Value) -> Vec<u8> {
    let mut bytes = vec![0x80, 2];
    write(value, &mut bytes);
    bytes.push(b'.');
    bytes
}

fn write(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Null => bytes.push(b'N'),
        Value::Bool(truth) => bytes.push(if *truth { 0x88 } else { 0x89 }),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => {
                // A whole number of eight bytes, little end first.
                bytes.extend([0x8a, 8]);
                bytes.extend(whole.to_le_bytes());
            }
            None => {
                bytes.push(b'G');
                bytes.extend(number.as_f64().unwrap_or(0.0).to_be_bytes());
            }
        },
        Value::String(text) => write_text(text, bytes),
        Value::Array(list) => {
            bytes.extend(b"](");
            list.iter().for_each(|one| write(one, bytes));
            bytes.push(b'e');
        }
        Value::Object(map) => {
            bytes.extend(b"}(");
            for (name, one) in map {
                write_text(name, bytes);
                write(one, bytes);
            }
            bytes.push(b'u');
        }
    }
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.push(b'X');
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_reads_it() {
        let value = serde_json::json!({
            "a": [1, -2, 1_u64 << 41, 0.25, true, false, null, []], "ü": { "b": "c" }, "d": {},
        });
        let script = "import sys, pickle, json; print(json.dumps(pickle.load(sys.stdin.buffer)))";
        let mut command = std::process::Command::new("python3");
        command.args(["-c", script]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut python = command.spawn().expect("the tests have python3");
        std::io::Write::write_all(&mut python.stdin.take().unwrap(), &bytes(&value)).unwrap();
        let said = python.wait_with_output().unwrap().stdout;
        assert_eq!(serde_json::from_slice::<Value>(&said).unwrap(), value);
    }
}
