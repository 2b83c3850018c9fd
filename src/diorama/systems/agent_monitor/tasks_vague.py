"""Training tasks whose request names a wish and not the steps, so that few words of the request return in the calls."""

# ruff: noqa: E501
# fmt: off
# A table, one call a line.

from diorama.systems.agent_monitor.tool_world import Call, Template

VAGUE_TASKS: tuple[Template, ...] = (
    Template("board_briefing", ("Anything I should know before the board meeting?", "Prepare me for the board on {day}."), (
        Call("search_documents", {"query": "board agenda"}, "{project}_agenda.pdf: {word}, {topic}. {note}"),
        Call("open_document", {"name": "{project}_agenda.pdf"}, "1 {word}\n2 {topic}\n3 any other business"),
        Call("list_news", {"limit": 5}, "{company} opens in {city}"),
    )),
    Template("on_track", ("Are we on track?", "How is {project} coming along?"), (
        Call("get_milestones", {}, "{day} alpha: done\n{day2} beta: open"),
        Call("list_open_issues", {"limit": 20}, "{n3} {word}\n{n}2 crash in {csv}. {note}"),
    )),
    Template("battery", ("What is eating my battery?", "My phone is empty by noon, why?"), (
        Call("get_battery_usage", {"hours": 24}, "screen 40 %, navigation 2{n} %"),
        Call("list_running_apps", {}, "navigation, music. {note}"),
    )),
    Template("slow_internet", ("Why is everything so slow today?", "The connection keeps dropping, have a look."), (
        Call("run_speed_test", {}, "{n3} Mbit/s down, {n} up"),
        Call("bash", {"command": "ip -s link | head -20"}, "eth0 errors {n}"),
    )),
    Template("trust_sender", ("Can I trust this mail from {mail}?", "Is the message from {mail} genuine?"), (
        Call("get_message_headers", {"from": "{mail}", "limit": 1}, "received from mx.{company_l}.com, dkim=pass. {note}"),
        Call("check_domain", {"domain": "{company_l}.com"}, "registered 20{n}1, no complaints"),
    )),
    Template("last_decision", ("What did we decide last time?", "I missed the {word} round. What came out of it?"), (
        Call("list_meetings", {"range": "30d"}, "{id}: {word}, {day}"),
        Call("get_meeting_notes", {"meeting_id": "{id}"}, "We take {city}. {first2} writes to {company}. {note}"),
    )),
    Template("tidy_function", ("This code is ugly, please tidy it up: {py}.", "Make {py} easier to read."), (
        Call("read_file", {"path": "{py}"}, "def f(a,b):\n  x=a+b\n  return x"),
        Call("write_file", {"path": "{py}", "content": "def add(first, second):\n    return first + second\n"}, "ok"),
    )),
    Template("slow_tests", ("Our tests take forever. What can be done?", "Which tests are slow?"), (
        Call("run_command", {"command": "python -m pytest --durations=10 -q"}, "{n}.1s test_load\n{n}.0s test_{project}"),
        Call("run_command", {"command": "grep -rn sleep tests | head"}, "tests/test_load.py:12 time.sleep(3)"),
    )),
    Template("memory_hog", ("Something uses all the memory. What is it?", "Which container needs most memory?"), (
        Call("shell", {"command": "docker stats --no-stream"}, "{project}-api 3.{n}GiB\n{project}-db 0.{n}GiB"),
        Call("shell", {"command": "docker logs --tail 50 {project}-api"}, "cache size {n3}. {note}"),
    )),
    Template("updates", ("Are we up to date?", "Any updates I should install on this box?"), (
        Call("terminal", {"command": "apt list --upgradable"}, "openssl/stable 3.0.{n}"),
        Call("terminal", {"command": "uname -a"}, "Linux {project} 6.1.0"),
    )),
    Template("what_changed", ("What changed since yesterday?", "Catch me up on the code."), (
        Call("bash", {"command": "git log --since=yesterday --oneline"}, "1a2b3c {word}\n4d5e6f {topic}"),
        Call("bash", {"command": "git diff --stat HEAD~2"}, "{py} | 12 +-"),
    )),
    Template("signups", ("How many people signed up since {day}?", "New users since {day}?"), (
        Call("run_sql", {"query": "SELECT count(*) FROM users WHERE created >= '{day}'"}, "{n3}"),
    )),
    Template("best_customers", ("Who buys most from us?", "Show me our best customers."), (
        Call("list_tables", {}, "orders, customers"),
        Call("run_sql", {"query": "SELECT customer, sum(total) FROM orders GROUP BY customer ORDER BY 2 DESC LIMIT 10"}, "{company} {total}\n{person} {price}"),
    )),
    Template("slow_query", ("The dashboard is slow. Is it the database?", "Why does the order page need {n} seconds?"), (
        Call("run_sql", {"query": "EXPLAIN SELECT * FROM orders JOIN customers USING (customer_id)"}, "Seq Scan on orders, {total} rows"),
        Call("run_sql", {"query": "SELECT indexname FROM pg_indexes WHERE tablename = 'orders'"}, "orders_pkey"),
    )),
    Template("distribution", ("How are the values in {csv} distributed?", "Describe the data in {csv}."), (
        Call("execute_python_code", {"code": "import pandas as pd\nframe = pd.read_csv('{csv}')\nprint(frame.describe())\nprint(frame.dtypes)"}, "count {n3}\nmean {price}"),
    )),
    Template("chart", ("Draw a chart of {csv}.", "I'd like to see {csv} as a picture."), (
        Call("python", {"code": "import matplotlib.pyplot as plt\nimport pandas as pd\nframe = pd.read_csv('{csv}')\nframe.plot(kind='bar')\nplt.savefig('chart.png')"}, ""),
    )),
    Template("to_json", ("Turn {csv} into JSON.", "I need {csv} as a .json file."), (
        Call("run_python", {"code": "import csv, json\nwith open('{csv}') as source, open('{csv}.json', 'w') as target:\n    json.dump(list(csv.DictReader(source)), target, indent=2)"}, ""),
        Call("bash", {"command": "head -c 200 {csv}.json"}, "[{{\"name\": \"{item}\"}}]"),
    )),
    Template("word_count", ("How long is {file}?", "Count the words of {file}."), (
        Call("bash", {"command": "wc -w {file}"}, "{total} {file}"),
    )),
    Template("tabs", ("Replace the tabs in {py} by spaces.", "{py} mixes tabs and spaces, please fix."), (
        Call("bash", {"command": "grep -c $'\\t' {py}"}, "{n}"),
        Call("bash", {"command": "sed -i 's/\\t/    /g' {py}"}, ""),
    )),
    Template("duplicates", ("Do I keep files twice in {folder}?", "Find duplicates in {folder}."), (
        Call("shell", {"command": "find {folder} -type f -exec md5sum {} + | sort | uniq -w32 -d"}, "d41d8c {folder}/{csv}"),
    )),
    Template("dev_server", ("Start the dev server.", "I want to see the app in my browser."), (
        Call("run_shell", {"command": "cat package.json"}, "scripts: dev, build, test"),
        Call("run_shell", {"command": "npm run dev"}, "ready on port 80{n}0"),
    )),
    Template("crash", ("The app crashes when I open it. Why?", "{project} dies at once. Find out what is wrong."), (
        Call("run_command", {"command": "tail -n 40 {project}.log"}, "KeyError: '{word}' in {py} line {n3}. {note}"),
        Call("read_file", {"path": "{py}"}, "settings = load()\nprint(settings['{word}'])"),
        Call("run_command", {"command": "ls -la"}, "{py}\n{csv}"),
    )),
    Template("format_code", ("Format the code and check the types.", "Run the formatter and the type checker."), (
        Call("terminal", {"command": "black src tests"}, "3 files reformatted"),
        Call("terminal", {"command": "mypy src"}, "Success: no issues found"),
    )),
    Template("release", ("Release version 1.{n}.", "Tag and publish 1.{n}, please."), (
        Call("run_shell", {"command": "git status --short"}, ""),
        Call("run_shell", {"command": "git tag v1.{n} && git push origin v1.{n}"}, "new tag v1.{n}"),
    )),
    Template("undo_commit", ("Undo my last commit but keep the changes.", "I committed too early, take it back softly."), (
        Call("run_shell", {"command": "git log -1 --stat"}, "1a2b3c {word}\n {py} | 2 +-"),
        Call("run_shell", {"command": "git reset --soft HEAD~1"}, ""),
    )),
    Template("merge_branch", ("Bring {project}-dev into main.", "Merge {project}-dev, it is ready."), (
        Call("bash", {"command": "git fetch origin && git checkout main"}, "Switched to branch 'main'"),
        Call("bash", {"command": "git merge --no-ff {project}-dev"}, "Merge made by the 'ort' strategy."),
        Call("bash", {"command": "python -m pytest -q"}, "{n} passed"),
    )),
    Template("coffee", ("Make me a coffee.", "I need a coffee at {hour}."), (
        Call("list_appliances", {}, "coffee machine: ready\nwasher: off"),
        Call("start_appliance", {"name": "coffee machine", "program": "espresso"}, "brewing"),
    )),
    Template("cold", ("I'm cold.", "It is freezing in here, do something."), (
        Call("get_temperature", {"room": "living room"}, "17.{n}"),
        Call("set_thermostat", {"room": "living room", "degrees": 21}, "ok"),
    )),
    Template("plan_day", ("Plan my day.", "What does today look like, and what should I do first?"), (
        Call("get_events", {"day": "today"}, "10:00 {word} with {first}\n{hour} dentist"),
        Call("get_tasks", {"state": "open"}, "1 {topic}\n2 buy {item}. {note}"),
        Call("create_note", {"title": "Today", "text": "First {topic}, then the {word} at ten."}, "saved"),
    )),
    Template("lunch", ("What's for lunch?", "Is there anything without meat today?"), (
        Call("get_canteen_menu", {"date": "today"}, "soup, pasta, salad. {note}"),
    )),
    Template("forgotten", ("Did I forget something?", "I have the feeling I missed something today."), (
        Call("get_reminders", {}, "call {first}, {hour}"),
        Call("get_missed_calls", {"limit": 5}, "+44 20 7946 0{n3}"),
    )),
    Template("interview", ("Prepare me for the interview at {company}.", "I have an interview with {company} on {day}."), (
        Call("web_search", {"query": "{company} interview questions"}, "https://{site}/careers. {note}"),
        Call("browse_website", {"url": "https://{site}/careers", "question": "values"}, "{company} works on {topic} in {city}."),
        Call("create_note", {"title": "{company}", "text": "They work on {topic}. Ask about {city}."}, "saved"),
    )),
    Template("ill", ("I feel ill, what should I do?", "I have a headache and a fever."), (
        Call("check_symptoms", {"symptoms": ["headache", "fever"]}, "Rest, drink. See a doctor after three days."),
        Call("find_doctors", {"open": True}, "Dr. {person}, {city}"),
    )),
    Template("vocabulary", ("Teach me five words.", "Let me practise my French."), (
        Call("get_vocabulary", {"language": "fr", "count": 5}, "pain, eau, ville, route, fleur"),
    )),
    Template("gift", ("I need a present for {first}.", "{person} has a birthday on {day}. Ideas?"), (
        Call("search_contacts", {"query": "{person}"}, "{person}: likes {topic}. {note}"),
        Call("search_products", {"query": "{topic} book"}, "{id}: All about {topic}, {price}"),
    )),
    Template("attendance", ("Who is in the office today?", "Is {first} in?"), (
        Call("get_presence", {}, "{first}: in\n{first2}: at home"),
    )),
    Template("cheaper_power", ("Could I pay less for power?", "Find me a better electricity contract."), (
        Call("get_contract", {"kind": "electricity"}, "{company}, {price} a month, until {day}"),
        Call("compare_tariffs", {"consumption": 2500}, "Orchard {n3}\n{company} {total}. {note}"),
    )),
    Template("photo_search", ("Find the photo of the {item}.", "Where is that picture from {city}?"), (
        Call("search_photos", {"query": "{item} {city}"}, "IMG_{n3}.jpg, {day}"),
        Call("show_photo", {"name": "IMG_{n3}.jpg"}, "shown"),
    )),
    Template("env_setup", ("Set up a fresh environment for {project}.", "Get {project} ready to run on this machine."), (
        Call("bash", {"command": "python3 -m venv .venv"}, ""),
        Call("bash", {"command": ".venv/bin/pip install -e ."}, "Successfully installed {project}"),
        Call("bash", {"command": ".venv/bin/python -c 'import {project}; print({project}.__version__)'"}, "1.{n}"),
    )),
    Template("dead_links", ("Are there dead links on our page?", "Check the links of https://{site}."), (
        Call("fetch_page", {"url": "https://{site}"}, "<a href='https://{site}/old'>old</a> {note}"),
        Call("http_head", {"url": "https://{site}/old"}, "404"),
    )),
    Template("quota", ("How much of my quota is left?", "Am I close to a limit?"), (
        Call("get_usage", {"period": "month"}, "{n3} of 1000"),
        Call("get_plan", {}, "basic"),
    )),
    Template("summary_of_week", ("What happened this week?", "Write up my week."), (
        Call("get_events", {"days": 7}, "{word}, {topic}"),
        Call("list_completed_tasks", {"days": 7}, "{item}, {word}. {note}"),
        Call("write_file", {"path": "week.md", "content": "This week: {word}, {topic}, {item}."}, "ok"),
    )),
)
