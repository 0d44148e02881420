/** A question that was asked, as code that asks it again. */

/**
 * @typedef {object} Sent what was sent for an answer
 * @property {string} model
 * @property {string} question
 * @property {SentPicture[]} pictures
 * @property {object} extension the request's `lookonce` object
 * @property {boolean} hasKey whether the server wanted an API key; the key itself is never part of the code
 */

/**
 * @typedef {object} SentPicture
 * @property {string} url `lookonce:<id>`, or `data:` with the pixels
 * @property {boolean} isMoving
 * @property {string[]} files where the code finds the pixels
 * @property {string[]} saved where this page has them, one a file
 */

/** @type {Object<string, (sent: Sent, server: string) => string>} by what the code is for; the server's URL ends in no slash */
export const CODES = { curl: curlCode, openai: openaiCode, lookonce: lookonceCode };

export const isPixels = ({ url }) => url.startsWith("data:");
const text = JSON.stringify; // its texts are Python's too
const shellWord = (value) => `'${value.replaceAll("'", String.raw`'\''`)}'`;

/** @returns {string} a request of curl's; pixels are read where it runs */
function curlCode({ model, question, pictures, extension, hasKey }, server) {
  const marks = new Map(); // what stands for a picture's pixels, and the shell's words that read them
  const parts = pictures.map((picture, i) => {
    const kind = picture.isMoving ? "video_url" : "image_url";
    if (!isPixels(picture)) return { type: kind, [kind]: { url: picture.url } };
    const files = picture.files.map((name) => `$(base64 < ${shellWord(name)} | tr -d '\\n')`);
    marks.set(`@pixels-${i}@`, picture.url.split(",")[0] + "," + files.join(","));
    return { type: kind, [kind]: { url: `@pixels-${i}@` } };
  });
  const messages = [{ role: "user", content: [...parts, { type: "text", text: question }] }];
  const body = JSON.stringify({ model, messages, ...extended(extension) }, null, 2);
  const head = [
    `curl -s ${shellWord(`${server}/v1/chat/completions`)}`,
    "-H 'content-type: application/json'",
    ...(hasKey ? ['-H "authorization: Bearer $LOOKONCE_API_KEY"'] : []),
  ].join(" \\\n  ");
  if (!marks.size) return `${head} \\\n  -d ${shellWord(body)}\n`;
  let document = body.replaceAll(/[\\$`]/g, String.raw`\$&`); // the shell looks into it for the pixels
  for (const [mark, words] of marks) document = document.replace(`"${mark}"`, () => `"${words}"`);
  return `${head} \\\n  -d @- <<JSON\n${document}\nJSON\n`;
}

/** @returns {string} Python with OpenAI's client */
function openaiCode({ model, question, pictures, extension, hasKey }, server) {
  const hasPixels = pictures.some(isPixels);
  const parts = pictures.map((picture) => {
    const kind = picture.isMoving ? "video_url" : "image_url";
    const [head] = picture.url.split(",");
    const url = isPixels(picture) ? `pixels(${[`${head},`, ...picture.files].map((name) => text(name)).join(", ")})` : text(picture.url);
    return `{"type": "${kind}", "${kind}": {"url": ${url}}},`;
  });
  const more = Object.keys(extension).length ? [`    extra_body=${text({ lookonce: extension })},`] : [];
  return [
    ...(hasPixels ? ["import base64"] : []),
    ...(hasKey ? ["import os"] : []),
    ...(hasPixels ? ["from pathlib import Path"] : []),
    ...(hasPixels || hasKey ? [""] : []),
    "from openai import OpenAI",
    "",
    ...(hasPixels
      ? [
          "",
          "def pixels(head, *files):",
          '    return head + ",".join(base64.b64encode(Path(file).read_bytes()).decode() for file in files)',
          "",
          "",
        ]
      : []),
    `client = OpenAI(base_url=${text(`${server}/v1`)}, api_key=${hasKey ? 'os.environ["LOOKONCE_API_KEY"]' : '"none"'})`,
    "answer = client.chat.completions.create(",
    `    model=${text(model)},`,
    "    messages=[{",
    '        "role": "user",',
    '        "content": [',
    ...parts.map((part) => `            ${part}`),
    `            {"type": "text", "text": ${text(question)}},`,
    "        ],",
    "    }],",
    ...more,
    ")",
    "print(answer.choices[0].message.content)",
    "",
  ].join("\n");
}

/** @returns {string} Python with lookonce's client */
function lookonceCode({ question, pictures, extension, hasKey }, server) {
  const opened = pictures.map((picture) => {
    const what = isPixels(picture) ? picture.files : [picture.url];
    const first = picture.isMoving && isPixels(picture) ? text(what) : text(what[0]);
    return `client.${picture.isMoving ? "video" : "image"}(${first})`;
  });
  const images = opened.length === 1 ? opened[0] : `client.images(\n        ${opened.join(",\n        ")},\n    )`;
  const options = Object.entries(extension).map(([name, value]) => `, ${name}=${text(value)}`).join("");
  return [
    ...(hasKey ? ["import os", ""] : []),
    "from lookonce import Client",
    "",
    `with Client(${text(server)}${hasKey ? ', api_key=os.environ["LOOKONCE_API_KEY"]' : ""}) as client:`,
    `    ${opened.length === 1 ? "image" : "images"} = ${images}`,
    `    print(${opened.length === 1 ? "image" : "images"}.ask(${text(question)}${options}).text)`,
    "",
  ].join("\n");
}

const extended = (extension) => (Object.keys(extension).length ? { lookonce: extension } : {});
