//! Tables and numbers for people.

use std::io::IsTerminal as _;
use std::io::Write as _;
use std::time::Instant;

use indicatif::ProgressBar;

use super::CliError;

/// True when a person watches stderr: progress bars go there.
pub fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// A progress bar that is only seen where a person watches.
pub fn progress_bar(length: usize) -> ProgressBar {
    if stderr_is_terminal() { ProgressBar::new(length as u64) } else { ProgressBar::hidden() }
}

/// Prints rows under headings, columns aligned, columns of numbers to the right. Bold only where a terminal shows it.
pub fn print_table(headings: &[&str], rows: &[Vec<String>]) -> Result<(), CliError> {
    let columns = headings.len();
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number = |cell: &str| cell.trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_digit());
    let right: Vec<bool> = (0..columns)
        .map(|c| !rows.is_empty() && rows.iter().all(|r| r.get(c).is_none_or(|x| x.is_empty() || is_number(x))))
        .collect();
    let mut out = anstream::stdout().lock();
    let bold = anstyle::Style::new().bold();
    let line = |cells: &[&str]| -> String {
        let mut text = String::new();
        for (c, cell) in cells.iter().enumerate() {
            let pad = " ".repeat(widths[c].saturating_sub(cell.chars().count()));
            if right[c] {
                text.push_str(&pad);
                text.push_str(cell);
            } else {
                text.push_str(cell);
                text.push_str(&pad);
            }
            text.push_str("  ");
        }
        text.trim_end().to_string()
    };
    writeln!(out, "{bold}{}{bold:#}", line(headings))?;
    for row in rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        writeln!(out, "{}", line(&cells))?;
    }
    Ok(())
}

/// Prints one line on stdout.
pub fn print_line(text: &str) -> Result<(), CliError> {
    writeln!(anstream::stdout().lock(), "{text}")?;
    Ok(())
}

/// 1234567 → "1.23 M".
pub fn si(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, " G"),
        v if v >= 1e6 => (value / 1e6, " M"),
        v if v >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    if unit.is_empty() { format!("{scaled}") } else { format!("{scaled:.2}{unit}") }
}

/// Milliseconds since then.
pub fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Peak resident memory of this process, where the system tells.
pub fn peak_rss_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

/// Resident memory of this process now, where the system tells.
pub fn rss_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// Open files, sockets and devices of this process, where the system tells.
pub fn open_handles() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with(key))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
