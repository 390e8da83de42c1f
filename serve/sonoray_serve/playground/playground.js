// The page: a study and a question in, an answer as it comes, and what a person says of it.
//
// All that it does is ask the API of the service that sent it, with the key that was typed in.
// Text from the service or from a file is only ever set as text, never as HTML.
import { picturesOf } from "./playground-pictures.js";
import { WORDS } from "./playground-words.js";

const $ = (id) => document.getElementById(id);
const state = { pictures: [], answer: null, rating: "", stop: null, asked: null };
let words = WORDS.en;

function speak(language) {
  words = WORDS[language];
  document.documentElement.lang = language;
  for (const each of document.querySelectorAll("[data-word]"))
    each.textContent = words[each.dataset.word];
  $("examples").replaceChildren(
    ...words.examples.map((text, number) => {
      const button = make("button", text);
      button.addEventListener("click", () => {
        $("question").value = text;
        $("options").value = number === 0 ? words.example_options : "";
      });
      return button;
    }),
  );
  showPictures();
  if (state.answer) showFacts();
}

function make(kind, text = "", name = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function tell(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

// The error of a response, in the service's own words.
async function reasonOf(response) {
  const wait = response.headers.get("Retry-After");
  const again = wait ? ` ${words.retry.replace("{s}", wait)}` : "";
  try {
    return (await response.json()).error.message + again;
  } catch {
    return `HTTP ${response.status}${again}`;
  }
}

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value.trim()}`;
  let response;
  try {
    response = await fetch(path, { headers, cache: "no-store", ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(words.unreached);
  }
  if (!response.ok) throw new Error(await reasonOf(response));
  return response;
}

async function findModels() {
  try {
    const { data, takes_study_uid } = await (await call("v1/models")).json();
    $("by-uid").hidden = !takes_study_uid;
    $("models").replaceChildren(
      ...data.map((model) => {
        const option = document.createElement("option");
        option.value = model.id;
        return option;
      }),
    );
    if (!$("model").value && data.length) $("model").value = data[0].id;
    tell("");
  } catch (error) {
    tell(error.message);
  }
}

function card(src, caption, chosen = false) {
  const item = make("li", "", chosen ? "chosen" : "");
  if (src) {
    const image = document.createElement("img");
    image.src = src;
    image.alt = caption;
    item.append(image);
  }
  item.append(make("span", caption, "caption"));
  return item;
}

function showPictures() {
  $("pictures").replaceChildren(
    ...state.pictures.map((picture, index) => {
      const item = card(picture.preview, picture.name);
      const remove = make("button", "×");
      remove.setAttribute("aria-label", `${words.remove} ${picture.name}`);
      remove.addEventListener("click", () => {
        state.pictures.splice(index, 1);
        showPictures();
      });
      item.append(remove);
      return item;
    }),
  );
}

async function addFiles(files) {
  tell("");
  for (const file of files) {
    try {
      state.pictures.push(...(await picturesOf(file)));
    } catch {
      tell(`${file.name} ${words.unreadable}`);
    }
  }
  showPictures();
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(words.broken); // the connection is cut
    });
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield part.replace(/^data: /, "");
  }
}

async function ask() {
  const question = $("question").value.trim();
  if (!question) return tell(words.no_question);
  tell("");
  if (!$("model").value.trim()) await findModels(); // a service without keys: nobody typed one
  const options = $("options").value.split(/[/／]/).map((each) => each.trim()).filter(Boolean);
  const images = state.pictures.map((picture) => picture.url);
  const study = $("by-uid").hidden ? "" : $("study").value.trim();
  if (study && images.length) return tell(words.one_study);
  state.asked = { question, images, options, study };
  state.answer = { text: "", facts: null, end: "" };
  begin();
  const body = {
    model: $("model").value.trim(),
    stream: true,
    messages: [
      {
        role: "user",
        content: [
          ...images.map((url) => ({ type: "image_url", image_url: { url } })),
          { type: "text", text: question },
        ],
      },
    ],
    sonoray: {
      thumbnails: true,
      ...(options.length ? { options } : {}),
      ...(study ? { study } : {}),
    },
  };
  state.stop = new AbortController();
  try {
    const sent = { method: "POST", body: JSON.stringify(body), signal: state.stop.signal };
    await read(await call("v1/chat/completions", sent));
  } catch (error) {
    tell(error.name === "AbortError" ? words.stopped : error.message);
    if (!state.answer.text) $("answer").hidden = true;
  }
  end();
}

async function read(response) {
  let done = false;
  for await (const event of eventsOf(response)) {
    if (event === "[DONE]") {
      done = true;
      break;
    }
    const chunk = JSON.parse(event);
    if (chunk.error) throw new Error(chunk.error.message);
    state.answer.id = chunk.id;
    for (const choice of chunk.choices) {
      state.answer.text += choice.delta.content || "";
      state.answer.end = choice.finish_reason || state.answer.end;
    }
    if (chunk.sonoray) state.answer.facts = chunk.sonoray;
    $("text").textContent = state.answer.text;
  }
  if (!done) throw new Error(words.broken);
  showFacts();
}

function begin() {
  $("answer").hidden = false;
  $("text").textContent = words.waiting;
  $("ask").disabled = true;
  $("stop").hidden = false;
  for (const id of ["cut", "closed", "used", "feedback", "sent"]) $(id).hidden = true;
  for (const id of ["remarks", "asked-first", "told"]) $(id).replaceChildren();
  $("correction").value = "";
  rate("");
}

function end() {
  $("ask").disabled = false;
  $("stop").hidden = true;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function showFacts() {
  const { facts, end: reason } = state.answer;
  if (!facts) return;
  $("cut").hidden = reason !== "length";
  $("remarks").replaceChildren(...facts.remarks.map((each) => make("li", each)));
  $("asked-first").replaceChildren(
    ...facts.asked_first.map((each) => make("li", `${words.first}: ${each.question} ${each.answer}`)),
  );
  $("told").textContent =
    `${words.by}: ${facts.model}, ${facts.digest.slice(0, 12)}. ${facts.notice}`;
  showClosed(facts.closed);
  $("used").hidden = !facts.images.length;
  $("seen").replaceChildren(
    ...facts.images.map((image) => {
      const frame = image.frame ? `, ${words.frame} ${image.frame + 1}` : "";
      const used = image.selected ? words.used : words.unused;
      const name = `${image.part + 1}${frame}: ${percent(image.score)}, ${used}`;
      return card(image.thumbnail, name, image.selected);
    }),
  );
  $("feedback").hidden = false;
}

function showClosed(closed) {
  $("closed").hidden = !closed;
  if (!closed) return;
  const best = Math.max(...closed.options.map((option) => option.probability));
  $("shares").replaceChildren(
    ...closed.options.map((option) => {
      const item = make("li", "", option.probability === best ? "best" : "");
      const meter = document.createElement("meter");
      meter.value = option.probability;
      item.append(make("span", option.text), meter, make("span", percent(option.probability)));
      return item;
    }),
  );
  const how = closed.calibrated ? words.calibrated : words.uncalibrated;
  $("calibrated").textContent = closed.abstain ? `${words.abstain} ${how}` : how;
}

function rate(rating) {
  state.rating = rating;
  $("good").setAttribute("aria-pressed", String(rating === "good"));
  $("bad").setAttribute("aria-pressed", String(rating === "bad"));
  $("send").disabled = !rating;
}

async function sendFeedback() {
  tell("");
  const body = { answer_id: state.answer.id, rating: state.rating };
  const corrected = $("correction").value.trim();
  if (corrected) body.corrected_text = corrected;
  if ($("with-images").checked) {
    const { question, images, options, study } = state.asked;
    Object.assign(body, { question, answer: state.answer.text, images });
    if (study) body.study = study;
    if (options.length) body.options = options;
  }
  $("send").disabled = true;
  try {
    await call("v1/feedback", { method: "POST", body: JSON.stringify(body) });
    $("sent").textContent = words.sent;
    $("sent").hidden = false;
  } catch (error) {
    tell(error.message);
    $("send").disabled = false;
  }
}

function listen() {
  const drop = $("drop");
  const open = () => $("files").click();
  drop.addEventListener("click", open);
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") open();
  });
  $("files").addEventListener("click", (event) => event.stopPropagation());
  $("files").addEventListener("change", async () => {
    await addFiles($("files").files);
    $("files").value = "";
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    addFiles([...event.dataTransfer.files]);
  });
  $("key").addEventListener("change", findModels);
  $("ask").addEventListener("click", ask);
  $("stop").addEventListener("click", () => state.stop?.abort());
  $("good").addEventListener("click", () => rate("good"));
  $("bad").addEventListener("click", () => rate("bad"));
  $("send").addEventListener("click", sendFeedback);
  $("language").addEventListener("change", () => speak($("language").value));
}

listen();
$("language").value = navigator.language.startsWith("zh") ? "zh" : "en";
speak($("language").value);
