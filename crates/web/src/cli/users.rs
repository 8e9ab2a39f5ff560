//! `larder createsuperuser`.

use std::env;

use larder_models::{Database, NewUser, Password, User};

const PASSWORD_VARIABLE: &str = "LARDER_SUPERUSER_PASSWORD";

pub(super) fn create_superuser(database: &Database, username: &str) -> anyhow::Result<()> {
    let password = Password::new(&ask_password()?)?;
    let existing = database.read(|db| User::by_username(db, username))?;
    match existing {
        Some(mut user) => {
            user.is_staff = true;
            user.is_superuser = true;
            user.is_active = true;
            database.write(|db| user.set_password(db, password))?;
            say!("{username} has a new password");
        }
        None => {
            let new = NewUser { username: username.to_owned(), password, is_staff: true, is_superuser: true };
            database.write(|db| User::create(db, new))?;
            say!("{username} was created");
        }
    }
    Ok(())
}

fn ask_password() -> anyhow::Result<String> {
    if let Ok(password) = env::var(PASSWORD_VARIABLE) {
        return Ok(password);
    }
    let no_terminal = |error| anyhow::anyhow!("cannot ask for the password ({error}); set {PASSWORD_VARIABLE}");
    let password = rpassword::prompt_password("Password: ").map_err(no_terminal)?;
    let again = rpassword::prompt_password("Password (again): ").map_err(no_terminal)?;
    anyhow::ensure!(password == again, "the two passwords differ; nothing was changed");
    Ok(password)
}
