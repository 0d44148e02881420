"""`/docs` comes from this server alone, and works."""

from playwright.sync_api import expect


def test_the_interface_is_shown_and_can_be_tried(visit, server):
    page = visit.open("/docs")
    paths = server.get("/openapi.json").json()["paths"]
    shown = page.locator(".opblock-summary-path")
    expect(shown).to_have_count(sum(len(methods) for methods in paths.values()))
    health = page.locator(".opblock", has=page.locator("[data-path='/health']"))
    health.locator(".opblock-summary-control").click()
    health.get_by_role("button", name="Try it out").click()
    health.get_by_role("button", name="Execute").click()
    expect(health.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
    assert visit.asked("/health", "GET")


def test_the_playground_leads_there(visit):
    page = visit.open()
    page.get_by_role("navigation").get_by_role("link", name="HTTP interface").click()
    expect(page.locator(".info .title")).to_contain_text("lookonce")
