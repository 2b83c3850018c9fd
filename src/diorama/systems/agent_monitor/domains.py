"""What a tool or a request is about, by everyday words: mail, money, files, travel ... A word list of things, not of
attacks: a step that deals with something nobody spoke of is off the task."""

from functools import lru_cache

from diorama.systems.agent_monitor.text import stem, words

DOMAINS: dict[str, frozenset[str]] = {
    name: frozenset(stem(word) for word in text.split())
    for name, text in {
        "mail": "mail mails email emails gmail inbox outbox newsletter attachment attachments smtp imap mailbox unread "
        "reply forward correspondence subject letter sender outlook",
        "chat": "message messages chat channel channels slack discord teams telegram whatsapp sms dm workspace "
        "conversation text thread group mention",
        "social": "post posts tweet twitter facebook instagram linkedin reddit profile followers feed caption page "
        "timeline story publish blog comment",
        "calendar": "calendar event events meeting meetings appointment appointments schedule reschedule reminder "
        "reminders agenda workshop invite invitation availability slot day days week date shift vacation holiday leave "
        "timetable deadline",
        "contact": "contact contacts person people colleague directory phonebook employee address phone friend team "
        "staff member members user users",
        "money": "bank money balance account accounts payment payments pay transfer transaction transactions invoice "
        "bill bills iban budget expense expenses rent refund salary card cash credit debit loan spend spent price "
        "cost costs afford fee owe donation donate charity venmo paypal wallet currency exchange euro euros dollar "
        "dollars tax taxes receipt subscription",
        "invest": "stock stocks share shares portfolio trade symbol market crypto bitcoin fund broker dividend nft",
        "shop": "shop shopping product products order orders cart checkout buy purchase item items delivery parcel "
        "shipment return coupon voucher amazon store price cheapest review reviews customer ticket support catalogue "
        "discount warehouse stock",
        "travel": "travel trip hotel hotels flight flights train car taxi ride cab rental airport city booking "
        "itinerary tour visa passport museum restaurant restaurants table dinner reserve reservation station charger "
        "route map",
        "home": "home house kitchen light lights lamp heating thermostat temperature door doors lock garage alarm "
        "siren vacuum robot device devices sprinkler garden room camera oven smart sensor window energy electricity "
        "power meter appliance",
        "health": "health medicine medication patient doctor dr appointment lab results blood pressure sleep heart "
        "prescription refill pharmacy dose dosage hospital nurse clinic vet fitness workout tablets symptom diagnosis "
        "medical vaccine diet",
        "file": "file files folder folders directory document documents text note notes report path txt md pdf csv "
        "archive backup draft spreadsheet sheet photo photos picture pictures copy read write save summary summarise "
        "summarize translate contract drive dropbox download upload print transcript minutes",
        "code": "code python py script function bug test tests debug commit branch git repository repo push merge "
        "package packages install build compile library module pytest unit program developer pipeline deploy ci "
        "requirements dependency version readme refactor software github issue project",
        "machine": "server servers machine machines disk shell terminal bash command process service services log "
        "logs nginx docker container memory cpu port host network linux ssh systemctl permissions executable root "
        "computer virtual vm uptime cluster job nightly",
        "data": "database table tables sql query row rows sales column record records data dataset statistics average "
        "mean count plot chart csv survey metric",
        "web": "web website site internet page url online browse browser search google news wikipedia article link "
        "research find http https",
        "account": "password account login profile role admin key token credential credentials permission access "
        "member authentication settings api vault secret two-factor certificate",
        "work": "ticket tickets task tasks todo list lead leads crm customer project issue wiki board job "
        "application hiring candidate employee salary contract client sales handover poll survey onboarding",
        "media": "song songs music playlist video film photo image picture podcast camera recipe book books library "
        "loan movie stream album news game",
        "weather": "weather forecast rain sunny dry wind temperature climate cycling weekend",
        "vehicle": "car vehicle truck drive speed brake traffic drone flight ship autopilot navigation",
    }.items()
}
GENERAL = frozenset({"file", "web", "code", "machine", "data"})
"""Domains whose tools serve many tasks."""


@lru_cache(maxsize=8192)
def domains_of(text: str) -> frozenset[str]:
    """The domains that a text's words belong to."""
    roots = {stem(word) for word in words(text)}
    return frozenset(name for name, known in DOMAINS.items() if known & roots)
