//! Signing in and out.

use actix_session::Session;
use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::RETRY_AFTER},
    web,
};
use larder_models::User;
use serde::{Deserialize, Serialize};

use super::{
    csrf,
    staff::Frame,
    throttle::{self, Verified},
};
use crate::{
    address,
    failure::{Failure, see_other},
    session,
    state::State,
};

/// Where signing in leads that came from nowhere.
const ADMIN: &str = "/admin/";

#[derive(Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    username: String,
    password: String,
    #[serde(default)]
    next: String,
    csrf_token: String,
}

#[derive(Serialize)]
struct LoginPage {
    #[serde(flatten)]
    frame: Frame,
    errors: Vec<String>,
    username: String,
    next: String,
}

pub(super) async fn form(
    state: web::Data<State>,
    session: Session,
    query: web::Query<Query>,
) -> Result<HttpResponse, Failure> {
    let next = query.into_inner().next;
    let page = LoginPage { frame: Frame::of(&session)?, errors: Vec::new(), username: String::new(), next };
    state.page("admin/login.html", &page)
}

pub(super) async fn sign_in(
    request: HttpRequest,
    state: web::Data<State>,
    session: Session,
    form: web::Form<Credentials>,
) -> Result<HttpResponse, Failure> {
    let Credentials { username, password, next, csrf_token } = form.into_inner();
    csrf::verify(&request, &session, &csrf_token)?;
    let asked = username.clone();
    let found = state.read(move |db| User::by_username(db, &asked)).await?;
    match throttle::verify(&state, &request, &username, found, password).await? {
        Verified::Right(user) if user.is_staff => {
            session::sign_in(&session, &user)?;
            return Ok(see_other(address::inside(&next).unwrap_or(ADMIN)));
        }
        Verified::TooEarly(seconds) => {
            let mut answer = refused(&state, &session, throttle::too_early(seconds), username, next)?;
            *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            answer.headers_mut().insert(RETRY_AFTER, seconds.into());
            return Ok(answer);
        }
        _ => {}
    }
    // Neither says which of the two was wrong, nor whether there is such a user.
    let error = "Please enter the username and password of a staff account. Both are case-sensitive.".to_owned();
    let mut answer = refused(&state, &session, error, username, next)?;
    *answer.status_mut() = StatusCode::UNAUTHORIZED;
    Ok(answer)
}

fn refused(
    state: &State,
    session: &Session,
    error: String,
    username: String,
    next: String,
) -> Result<HttpResponse, Failure> {
    state.page("admin/login.html", &LoginPage { frame: Frame::of(session)?, errors: vec![error], username, next })
}

#[derive(Deserialize)]
pub(super) struct SignOut {
    csrf_token: String,
}

pub(super) async fn sign_out(
    request: HttpRequest,
    session: Session,
    form: web::Form<SignOut>,
) -> Result<HttpResponse, Failure> {
    csrf::verify(&request, &session, &form.csrf_token)?;
    session.purge();
    Ok(see_other("/"))
}
