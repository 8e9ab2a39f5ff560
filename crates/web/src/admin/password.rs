//! One's own password.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use larder_models::{Model, Password, User};
use serde::{Deserialize, Serialize};

use super::{
    csrf,
    staff::{Frame, Staff},
    throttle::{self, Verified},
};
use crate::{
    failure::{Failure, see_other},
    session::{self, Message},
    state::State,
};

#[derive(Serialize)]
struct PasswordPage {
    #[serde(flatten)]
    frame: Frame,
    errors: BTreeMap<&'static str, Vec<String>>,
}

#[derive(Deserialize)]
pub(super) struct Form {
    old: String,
    new: String,
    again: String,
    csrf_token: String,
}

pub(super) async fn form(state: web::Data<State>, staff: Staff) -> Result<HttpResponse, Failure> {
    show(&state, &staff, BTreeMap::new())
}

fn show(state: &State, staff: &Staff, errors: BTreeMap<&'static str, Vec<String>>) -> Result<HttpResponse, Failure> {
    let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    let mut answer = state.page("admin/password.html", &PasswordPage { frame: Frame::of(&staff.session)?, errors })?;
    *answer.status_mut() = status;
    Ok(answer)
}

pub(super) async fn change(
    request: HttpRequest,
    state: web::Data<State>,
    staff: Staff,
    form: web::Form<Form>,
) -> Result<HttpResponse, Failure> {
    let Form { old, new, again, csrf_token } = form.into_inner();
    csrf::verify(&request, &staff.session, &csrf_token)?;
    let refused = |field, text: &str| show(&state, &staff, BTreeMap::from([(field, vec![text.to_owned()])]));
    let id = staff.asker.id;
    let Some(user) = state.read(move |db| User::find(db, id)).await? else { return Err(Failure::Forbidden) };
    let username = user.username.clone();
    // Whoever sits down at somebody's open session shall not guess either.
    let user = match throttle::verify(&state, &request, &username, Some(user), old).await? {
        Verified::Right(user) => user,
        Verified::Wrong => return refused("old", "This is not your password."),
        Verified::TooEarly(seconds) => return refused("old", &throttle::too_early(seconds)),
    };
    if new != again {
        return refused("again", "The two are not the same.");
    }
    let new = match web::block(move || Password::new(&new)).await? {
        Ok(new) => new,
        Err(invalid) => {
            let texts = invalid.iter().flat_map(|(_, texts)| texts.iter().cloned()).collect();
            return show(&state, &staff, BTreeMap::from([("new", texts)]));
        }
    };
    let stored = state.write(move |db| {
        let Some(mut now) = User::find(db, id)?.filter(|now| now.password_mark() == user.password_mark()) else {
            return Ok(None);
        };
        now.set_password(db, new)?;
        Ok(Some(now))
    });
    let Some(stored) = stored.await? else { return refused("old", "It was changed by somebody else just now.") };
    // Other sessions of this account end; this one goes on.
    session::sign_in(&staff.session, &stored)?;
    session::add_message(&staff.session, Message::success("Your password was changed."))?;
    Ok(see_other("/admin/"))
}
