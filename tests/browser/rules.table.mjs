// Rules at the boundaries of what the Scheduler bears, seen with 7.2.15, and a grammar that makes others.

/** It draws, or draws nothing, and stays well. */
export const READS = [
  "FREQ=DAILY", "freq=daily", "FREQ=weekly", "INTERVAL=2", "FREQ=DAILY;INTERVAL=00", "FREQ=DAILY;INTERVAL=+2",
  "FREQ=DAILY;INTERVAL=1.5", "FREQ=DAILY;INTERVAL=1e9", "FREQ=DAILY;INTERVAL=-1;INTERVAL=1", "FREQ=DAILY;INTERVAL=-1;COUNT=1",
  "FREQ=DAILY;COUNT=x;WKST=XX;TZID=Nowhere", "FREQ=DAILY;BYHOUR=25;BYMINUTE=99", "FREQ=DAILY;BYEASTER=x", "FREQ=DAILY;BYSETPOS=-366",
  "FREQ=YEARLY;BYYEARDAY=400", "FREQ=YEARLY;BYWEEKNO=99", "FREQ=MONTHLY;BYMONTHDAY=32", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30",
  "FREQ=SECONDLY;COUNT=10", "FREQ=SECONDLY;INTERVAL=3600", "FREQ=MINUTELY", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29",
  "FREQ=HOURLY;INTERVAL=2;BYHOUR=4", "FREQ=WEEKLY;BYDAY=99MO", "FREQ=DAILY FREQ=WEEKLY",
];

/** The calendar is empty, or what the page makes itself is not saved. */
export const THROWS = [
  "every day", "FREQ=", "FREQ=DAILY;", " FREQ=DAILY", "RRULE:FREQ=DAILY", "FREQ=DAILY;X=1", "FREQ=WEEKLY;BYDAY=mo",
  "FREQ=WEEKLY;BYDAY=", "FREQ=DAILY;BYDAY=MO,-0TU", "FREQ=DAILY;BYDAY=100MO", "FREQ=DAILY;UNTIL=20251231t000000z", "FREQ=DAILY;UNTIL=",
  "FREQ=DAILY;BYSETPOS=1,0", "FREQ=DAILY;BYSETPOS=367", "FREQ=DAILY;BYHOUR=", "FREQ=HOURLY;BYMINUTE=x", "FREQ=DAILY;WKST",
];

/** It answers nothing any more. */
export const HANGS = [
  "FREQ=DAILY;INTERVAL=.007;COUNT=10", "FREQ=DAILY;INTERVAL=", "FREQ=DAILY;INTERVAL=-1", "FREQ=DAILY;INTERVAL=0x10",
  "FREQ=MONTHLY;INTERVAL=1.5", "FREQ=HOURLY;BYHOUR=25", "FREQ=HOURLY;INTERVAL=2;BYHOUR=3", "FREQ=MINUTELY;BYMINUTE=60",
  "FREQ=DAILY;BYMONTH=13", "FREQ=DAILY;BYSETPOS=2", "FREQ=DAILY;INTERVAL=7;BYDAY=TU", "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
];

const ODD = ["", "0", "00", "-0", "+2", "-1", "1.5", ".5", ".007", "1e9", "0x10", "Infinity", "null", "9".repeat(25), "٣", "1,", "1,2", "x,1"];
const DAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"];
const FREQUENCIES = ["YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY", "SECONDLY"];

/** A rule that is mostly right. */
export function grammar(random) {
  const one = all => all[Math.floor(random() * all.length)];
  const within = (low, high) => low + Math.floor(random() * (high - low + 1));
  const number = (low, high) => (random() < 0.9 ? String(within(low, high)) : random() < 0.5 ? one(ODD) : String(within(-high - 2, 2 * high)));
  const list = (job, most = 3) => Array.from({ length: random() < 0.3 ? within(2, most) : 1 }, job).join(",");
  const weekday = () => (random() < 0.3 ? one(["1", "-1", "+2", "5", "0", "-00", "100"]) : "") + (random() < 0.95 ? one(DAYS) : one(["mo", "X", ""]));
  const parts = {
    INTERVAL: [0.4, () => number(1, 20)],
    COUNT: [0.15, () => number(1, 20)],
    UNTIL: [0.1, () => one(["20251231", "20251231T235959Z", "20240101T000000", "20251399", "20251231T0000", "tomorrow"])],
    BYDAY: [0.25, () => list(weekday)],
    BYSETPOS: [0.1, () => list(() => number(1, 3))],
    BYMONTH: [0.12, () => list(() => number(1, 12))],
    BYMONTHDAY: [0.15, () => list(() => number(1, 31))],
    BYYEARDAY: [0.05, () => list(() => number(1, 366))],
    BYWEEKNO: [0.05, () => list(() => number(1, 53))],
    BYHOUR: [0.15, () => list(() => number(0, 23))],
    BYMINUTE: [0.1, () => list(() => number(0, 59))],
    BYSECOND: [0.08, () => list(() => number(0, 59))],
    BYEASTER: [0.03, () => one(["0", "-2", "x", ""])],
    WKST: [0.08, () => one([...DAYS, "XX", ""])],
    TZID: [0.03, () => one(["Europe/Berlin", "Nowhere"])],
    DTSTART: [0.04, () => one(["20250420T100000Z", "20240101", "20250101t000000"])],
  };
  const made = [];
  if (random() < 0.95) made.push(`FREQ=${random() < 0.95 ? one(FREQUENCIES) : one(["daily", "", "OFTEN"])}`);
  for (const [name, [how, value]] of Object.entries(parts)) {
    while (random() < how) made.push(`${name}=${value()}`);
  }
  if (random() < 0.3) made.reverse();
  const rule = made.join(";") || "FREQ=DAILY";
  return random() < 0.97 ? rule : one([`${rule} `, `${rule};`, rule.replace(";", " "), rule.replace("=", "")]);
}
