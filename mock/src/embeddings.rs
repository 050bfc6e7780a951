//! Embeddings: a unit vector that depends only on the input, as floats or base64. Pure.

use base64::Engine;
use serde_json::{Value, json};

use crate::openai::{Invalid, Prompt, prompts, told_usage};
use crate::script::Reply;
use crate::tokens::Tokens;

/// Length of a vector when the request does not say. As `text-embedding-3-small`.
const DIMENSIONS: u64 = 1536;

/// A read request.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    inputs: Vec<Prompt>,
    dimensions: usize,
    base64: bool,
}

impl Ask {
    /// Reads `/embeddings`.
    ///
    /// # Errors
    /// [`Invalid`] if the input is missing or empty.
    pub fn read(body: &Value) -> Result<Ask, Invalid> {
        let inputs =
            prompts(&body["input"]).ok_or_else(|| Invalid::new("Missing required parameter: 'input'.", "input"))?;
        let dimensions = body["dimensions"].as_u64().unwrap_or(DIMENSIONS);
        if !(1..=10_000).contains(&dimensions) {
            return Err(Invalid::new("Invalid value for 'dimensions'.", "dimensions"));
        }
        Ok(Ask { inputs, dimensions: dimensions as usize, base64: body["encoding_format"] == "base64" })
    }

    /// Input tokens, by the rule for texts without messages.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.inputs.iter().map(Prompt::tokens).sum(), 0)
    }

    /// The answer.
    pub fn render(&self, model: &str, reply: &Reply, tokens: &Tokens) -> Value {
        let data: Vec<Value> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(index, input)| {
                let vector = vector(input, self.dimensions);
                let embedding = if self.base64 {
                    let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
                } else {
                    json!(vector)
                };
                json!({"object": "embedding", "index": index, "embedding": embedding})
            })
            .collect();
        let mut body = json!({"object": "list", "model": reply.model.as_deref().unwrap_or(model), "data": data});
        let counted = json!({"prompt_tokens": tokens.input, "total_tokens": tokens.input});
        if let Some(usage) = told_usage(&reply.usage, counted) {
            body["usage"] = usage;
        }
        for (name, value) in &reply.extra {
            body[name] = value.clone();
        }
        body
    }
}

/// A unit vector from the input's bytes: FNV-1a seeds a xorshift generator.
fn vector(input: &Prompt, dimensions: usize) -> Vec<f32> {
    let bytes = match input {
        Prompt::Text(text) => text.as_bytes().to_vec(),
        Prompt::Tokens(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let mut state = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
        | 1;
    let numbers: Vec<f32> = (0..dimensions)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    numbers.into_iter().map(|number| number / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_depend_on_the_input() {
        let (one, other) = (Prompt::Text("a".into()), Prompt::Tokens(vec![1, 2]));
        for input in [&one, &other] {
            let length: f32 = vector(input, 256).iter().map(|number| number * number).sum();
            assert!((length - 1.0).abs() < 1e-4, "{length}");
        }
        assert_eq!(vector(&one, 8), vector(&one, 8));
        assert_ne!(vector(&one, 8), vector(&other, 8));
    }

    #[test]
    fn base64_carries_the_same_numbers() {
        let render = |format: &str| {
            let body = json!({"input": ["a"], "dimensions": 3, "encoding_format": format});
            let ask = Ask::read(&body).unwrap();
            ask.render("m", &Reply::default(), &ask.tokens())["data"][0]["embedding"].clone()
        };
        let text = render("base64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_str().unwrap()).unwrap();
        let numbers: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(json!(numbers), render("float"));
    }
}
