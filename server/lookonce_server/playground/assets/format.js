/** Figures as people read them. */

const COUNT = new Intl.NumberFormat("en");
const PERCENT = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });

export const count = (value) => COUNT.format(value);

export const percent = (share) => PERCENT.format(share);

export function milliseconds(value) {
  return value < 999.5 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(value < 9995 ? 2 : 1)} s`;
}

export function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(1, value)) / 10));
  return `${power ? (value / 1024 ** power).toFixed(1) : value} ${units[power]}`;
}
