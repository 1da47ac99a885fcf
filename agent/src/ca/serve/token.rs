//! What a token says of itself, before the API server is asked whether it is true.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::Value;

/// Longer than any that an API server makes: a bound one has some 1,200 bytes.
const LONGEST: usize = 8 << 10;

/// What is read of a service account's token.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    /// One, or several. Absent in a token that is kept in a Secret.
    #[serde(default)]
    aud: Value,
}

/// Whether a token may be a service account's for this audience. It costs the API server nothing, and proves nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_form(token: &str, audience: &str) -> Result<(), String> {
    if token.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it is no JSON Web Token".to_owned());
    };
    let claims = decoded(claims).ok_or("it is no JSON Web Token")?;
    let claims: Claims =
        serde_json::from_slice(&claims).map_err(|e| format!("its claims cannot be read: {e}"))?;
    if !claims.sub.starts_with("system:serviceaccount:") {
        return Err("it is no service account's".to_owned());
    }
    let is_for_us = match &claims.aud {
        Value::Null => true,
        Value::Array(audiences) => audiences.iter().any(|its| its == audience),
        one => one == audience,
    };
    if !is_for_us {
        return Err(format!("it is not for the audience {audience}"));
    }
    Ok(())
}

/// Decodes base64 of the URL's alphabet, without padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut text = text.replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    let ByteString(bytes) = serde_json::from_value(Value::String(text)).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn token(claims: &Value) -> String {
        let text = serde_json::to_value(ByteString(claims.to_string().into_bytes())).unwrap();
        let text = text.as_str().unwrap().trim_end_matches('=').replace('+', "-").replace('/', "_");
        format!("e30.{text}.c2ln")
    }

    #[test]
    fn only_what_may_be_a_service_accounts_token_is_worth_a_question() {
        let check = |claims: Value| check_form(&token(&claims), "istio-ca");
        let account = "system:serviceaccount:mesh:agent";
        for aud in [json!("istio-ca"), json!(["api", "istio-ca"]), Value::Null] {
            assert_eq!(check(json!({"sub": account, "aud": aud, "name": "?>~"})), Ok(()), "{aud}");
        }
        assert_eq!(check(json!({"sub": account})), Ok(()));
        for wrong in [json!({"sub": account, "aud": ["api"]}), json!({"sub": "admin"}), json!({}), json!([])]
        {
            assert!(check(wrong.clone()).is_err(), "{wrong}");
        }
        for wrong in ["", "token", "a.b", "a.b.c.d", "e30.!.c2ln", &"a.e30.".repeat(5000)] {
            assert!(check_form(wrong, "istio-ca").is_err());
        }
    }
}
