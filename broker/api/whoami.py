"""`/auth/whoami` and `/auth/me`: whose key this is."""

from fastapi import APIRouter
from pydantic import BaseModel

from broker.api.auth import Anyone

router = APIRouter(prefix="/auth", tags=["API keys"])


class Identity(BaseModel):
    """The key that a request was made with."""

    id: str
    name: str
    role: str


@router.get("/whoami", operation_id="whoami")
@router.get("/me", operation_id="getMe")
async def whoami(principal: Anyone) -> Identity:
    """Tell whose key this is. Every role may ask."""
    return Identity(id=principal.key_id, name=principal.name, role=principal.role.value)
