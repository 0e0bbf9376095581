"""``tradeengine token`` and ``tradeengine deposit``: accounts, for the owner of the data directory."""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import Final

import psycopg

from tradeengine.actors.data_dir import DataDirError, read_secret
from tradeengine.cli.database import connect, one_line, require_engine
from tradeengine.cli.errors import CommandError
from tradeengine.cli.recorded import recorded
from tradeengine.core.money import NumberError
from tradeengine.core.symbols import AssetSpec
from tradeengine.settings import Settings
from tradeengine.storage.directory import DirectoryFullError, load_directory, resolve_account
from tradeengine.storage.funding import (
    Funding,
    FundingKind,
    FundingStatus,
    ReferenceReusedError,
    is_kept_outside,
    request_funding,
    wait_funding,
)
from tradeengine.web.auth import SUBJECT_PATTERN, SigningKey, issue_token, read_signing_key
from tradeengine.web.token_keys import load_keys
from tradeengine.web.tokens import BadTokenError, read_signed

SETTLE_TIMEOUT_S: Final = 30.0


def run_token(settings: Settings, user: str, role: str, *, two_factor: bool, key: Path | None, key_id: str) -> None:
    """Print a token. key: PEM file of a private key that the engine knows the public part of, as ``key_id``.

    Raises CommandError for a bad name, role or key, or when there is nothing to sign with.
    """
    auth = settings.auth
    try:
        signer = _signer(settings) if key is None else read_signing_key(key, key_id)
        token = issue_token(
            signer,
            user,
            role,
            auth.token_lifetime_s,
            two_factor=two_factor,
            issuer=auth.issuer,
            audience=auth.audience,
        )
    except (DataDirError, ValueError) as error:
        raise CommandError(str(error)) from None
    if isinstance(signer, SigningKey):
        _check_taken(settings, token, signer)
    with recorded(settings, "issue_token", user, role=role, two_factor=two_factor, key_id=key_id or None):
        sys.stdout.write(token + "\n")


def _signer(settings: Settings) -> bytes:
    if "HS256" not in settings.auth.algorithms:
        names = " or ".join(settings.auth.algorithms)
        raise CommandError(f"this engine takes tokens signed with {names}: name a private key by --key FILE --kid ID")
    return (settings.auth.secret or read_secret(settings.data_dir)).encode()


def _check_taken(settings: Settings, token: str, signer: SigningKey) -> None:
    """See that the engine would take a token: the key may be another one than the engine knows by that name."""
    try:
        read_signed(token, load_keys(settings.auth))
    except BadTokenError:
        raise CommandError(
            f"the engine would not take it: auth.keys_file has no {signer.algorithm} key {signer.key_id!r} "
            f"that is the public part of this one, or auth.algorithms does not name {signer.algorithm}"
        ) from None


def run_deposit(settings: Settings, user: str, asset_name: str, amount: str, reference: str | None) -> None:
    """Credit a user and wait until settlement has posted it. Raises CommandError."""
    if not SUBJECT_PATTERN.match(user):
        raise CommandError("a user name is 1 to 64 characters of A-Z a-z 0-9 _ . : @ -")
    require_engine(settings)
    reference = reference or f"cli:{uuid.uuid4()}"
    with recorded(settings, "deposit", user, asset=asset_name, amount=amount, reference=reference) as known:
        asset, settled = _deposit(settings, user, asset_name, amount, reference)
        known.after = {"status": settled.status.value, "id": str(settled.id), "wallet_error": settled.wallet_error}
    if settled.status is FundingStatus.REFUSED:
        raise CommandError(f"deposit {settled.id} was refused: {settled.wallet_error or settled.status_reason}")
    if settled.status is FundingStatus.PENDING:
        waiting_for = "the engine can" if settled.wallet_error is None else f"the wallet can ({settled.wallet_error})"
        raise CommandError(
            f"deposit {settled.id} is not settled after {SETTLE_TIMEOUT_S:.0f} s; it stays asked for "
            f"and is made once {waiting_for}: repeat with --reference {settled.reference} to wait again"
        )
    sys.stdout.write(f"settled    deposit {settled.id}: {asset.format(settled.amount_units)} {asset.name} to {user}\n")


def _deposit(settings: Settings, user: str, asset_name: str, amount: str, reference: str) -> tuple[AssetSpec, Funding]:
    deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
    while True:
        try:
            with connect(settings) as connection:
                asset = _find_asset(connection, asset_name)
                funding = _request(connection, settings, user, asset, amount, reference)
                return asset, wait_funding(connection, funding, timeout_s=SETTLE_TIMEOUT_S)
        except psycopg.OperationalError as error:
            # It may be started anew. Under its reference a deposit is made once, however often it is asked for.
            if time.monotonic() > deadline_s:
                raise CommandError(
                    f"the database broke off: {one_line(error)}; repeat with --reference {reference}"
                ) from None


def _find_asset(connection: psycopg.Connection, name: str) -> AssetSpec:
    directory = load_directory(connection)
    asset = directory.asset(name.upper())
    if asset is None:
        names = ", ".join(asset.name for asset in directory.assets.values())
        raise CommandError(f"asset {name} is unknown: there are {names}")
    return asset


def _request(
    connection: psycopg.Connection, settings: Settings, user: str, asset: AssetSpec, amount: str, reference: str
) -> Funding:
    try:
        amount_units = asset.parse(amount)
        if amount_units == 0:
            raise CommandError(f"amount {amount} is not allowed: must be more than 0")
        # The database knows where the money is, whatever settings this command was given.
        if user == settings.wallet.exchange_user and is_kept_outside(connection):
            raise CommandError(f"no user may be called {user}: wallet.exchange_user gets the fees at the wallet")
        account_id = resolve_account(connection, user, accounts_max=settings.limits.accounts_max)
        return request_funding(
            connection,
            FundingKind.DEPOSIT,
            reference=reference,
            account_id=account_id,
            asset_id=asset.asset_id,
            amount_units=amount_units,
        )
    except NumberError as error:
        raise CommandError(f"amount {amount} is not allowed: {error.message}") from None
    except (ReferenceReusedError, DirectoryFullError) as error:
        raise CommandError(str(error)) from None
