//! The day that templates are told, and C's `strftime` for it.

use minijinja::{Error, ErrorKind};

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Default for Date {
    /// 26 July 2024, the day that Llama 3.1's template falls back to: prompts
    /// do not change from day to day unless a caller wants them to.
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

impl Date {
    /// A date of the years 1 to 9999; `None` if there is no such day.
    pub fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let date = Self { year, month, day };
        let valid =
            (1..=9999).contains(&year) && (1..=12).contains(&month) && day >= 1 && day <= date.month_length();
        valid.then_some(date)
    }

    fn is_leap(self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn month_length(self) -> u8 {
        match self.month {
            2 => 28 + u8::from(self.is_leap()),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Day of the year, from 1.
    fn ordinal(self) -> u32 {
        let before = |month| Self { month, ..self }.month_length();
        u32::from(self.day) + (1..self.month).map(|m| u32::from(before(m))).sum::<u32>()
    }

    /// 0 for Sunday.
    fn weekday(self) -> usize {
        let y = u32::from(self.year) - 1;
        ((y + y / 4 - y / 100 + y / 400 + self.ordinal()) % 7) as usize
    }

    /// `strftime` at midnight, in English.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let month = MONTHS.get(usize::from(self.month) - 1).copied().unwrap_or_default();
        let weekday = DAYS.get(self.weekday()).copied().unwrap_or_default();
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let unpadded = directive == Some('-');
            if unpadded {
                directive = chars.next();
            }
            let number = |n: u32, width: usize| {
                if unpadded { n.to_string() } else { format!("{n:0width$}") }
            };
            let text = match directive {
                Some('Y') => number(self.year.into(), 4),
                Some('y') => number(u32::from(self.year) % 100, 2),
                Some('m') => number(self.month.into(), 2),
                Some('d') => number(self.day.into(), 2),
                Some('e') => format!("{:2}", self.day),
                Some('j') => number(self.ordinal(), 3),
                Some('B') => month.to_owned(),
                Some('b' | 'h') => month.chars().take(3).collect(),
                Some('A') => weekday.to_owned(),
                Some('a') => weekday.chars().take(3).collect(),
                Some('w') => self.weekday().to_string(),
                Some('H' | 'M' | 'S') => number(0, 2),
                Some('I') => number(12, 2),
                Some('p') => "AM".to_owned(),
                Some('F') => self.format("%Y-%m-%d")?,
                Some('%') => "%".to_owned(),
                other => {
                    let message = format!(
                        "strftime_now: %{} is not supported",
                        other.map_or(String::new(), String::from)
                    );
                    return Err(Error::new(ErrorKind::InvalidOperation, message));
                }
            };
            out.push_str(&text);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_python() {
        let day = |y, m, d| Date::new(y, m, d).unwrap();
        let date = day(2024, 2, 9);
        assert_eq!(
            date.format("%d %b %Y, %A %-d %B %y %j %F 100%%").unwrap(),
            "09 Feb 2024, Friday 9 February 24 040 2024-02-09 100%"
        );
        assert_eq!(day(2000, 12, 31).format("%j %a %e").unwrap(), "366 Sun 31");
        assert_eq!(day(1900, 3, 1).format("%j %A").unwrap(), "060 Thursday");
        assert_eq!(Date::default().format("%d %b %Y").unwrap(), "26 Jul 2024");
        assert!(date.format("%Q").unwrap_err().to_string().contains("%Q is not supported"));
    }

    #[test]
    fn only_real_days() {
        assert_eq!(Date::new(2023, 2, 29), None);
        assert_eq!(Date::new(1900, 2, 29), None);
        assert!(Date::new(2000, 2, 29).is_some());
        for (y, m, d) in [(0, 1, 1), (2024, 0, 1), (2024, 13, 1), (2024, 1, 0), (2024, 4, 31)] {
            assert_eq!(Date::new(y, m, d), None);
        }
    }
}
