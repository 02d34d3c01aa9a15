//! What is answered when a request is not carried out: `{"error": …}`, with what to do about it.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::consensus::node::ProposeError;

#[derive(Debug)]
pub struct Refused {
    status: StatusCode,
    error: String,
    /// More, for programs.
    further: Map<String, Value>,
}

impl Refused {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refused { status, error: error.into(), further: Map::new() }
    }

    /// The request itself is wrong.
    pub fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// Who asks has not shown that they may.
    pub fn unauthorized(error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, error)
    }

    pub fn forbidden(error: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, error)
    }

    pub fn not_found(error: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// Things are not as the request takes them to be.
    pub fn conflict(error: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// What was sent is understood, and not acceptable.
    pub fn unacceptable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error)
    }

    pub fn not_now(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.further.insert(key.to_owned(), value);
        self
    }
}

impl From<ProposeError> for Refused {
    fn from(error: ProposeError) -> Self {
        match &error {
            ProposeError::Refused(_) | ProposeError::Ordered(_) => Self::conflict(error.to_string()),
            ProposeError::NoLeader { .. } => {
                Self::not_now(format!("{error}; `komainu status` shows what is missing"))
            }
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut body = self.further;
        body.insert("error".to_owned(), Value::String(self.error));
        let mut response = (self.status, Json(Value::Object(body))).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
