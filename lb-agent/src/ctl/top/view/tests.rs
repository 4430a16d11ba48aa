//! Pictures of the screen.

use super::*;
use crate::ctl::top::state::tests::{answer, press, service, two_looks};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

fn picture(top: &mut Top, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3661);
    terminal.draw(|frame| draw(top, frame, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| line(y).trim_end().to_owned()).collect()
}

#[test]
fn services() {
    let mut top = two_looks();
    assert_eq!(
        picture(&mut top, 90, 7),
        [
            " lb serving  22 conn/s  16 active  3.0 fail/s  3 services  3 backends  1 in trouble  up 1h",
            " services  1-3 of 3",
            " SERVICE                STATE       BACKENDS  CONN/S*   ACTIVE   FAIL/S   FAILED       RTT",
            " busy                   ok               2/2       20        7        0        0    1.50ms",
            " slow                   ok               1/1      2.0        9      3.0        6   70.00ms",
            " idle                   down             0/0        0        0        0        0         -",
            " ? help  / filter  Enter backends  Esc back  c a f l s n sort  q quit",
        ]
    );
}

#[test]
fn a_narrow_screen_has_fewer_columns_and_a_tiny_one_does_no_harm() {
    let mut top = two_looks();
    let narrow = picture(&mut top, 60, 5);
    assert_eq!(narrow[2], " SERVICE     STATE       BACKENDS  CONN/S*   ACTIVE   FAIL/S");
    let wide = picture(&mut top, 120, 7);
    assert!(wide[2].contains("HEALTH"), "{wide:?}");
    assert!(wide[5].ends_with("no backend"), "{wide:?}");
    for (width, height) in [(1, 1), (3, 2), (20, 3), (5, 40)] {
        picture(&mut top, width, height);
        top.help = true;
        picture(&mut top, width, height);
        top.help = false;
    }
}

#[test]
fn backends_can_be_told_apart_on_every_usual_screen() {
    let longest = "255.255.255.255:65535";
    let mut top = Top::new(true);
    top.answered(Duration::ZERO, answer(vec![service("web", &[(longest, [0; 3], 1)])]));
    // All backends, and then those of the service.
    for keys in ["Tab", "Tab", "Enter"] {
        picture(&mut top, 80, 5);
        press(&mut top, keys);
        if top.place == Place::Services {
            continue;
        }
        for width in [60, 80, 90, 102, 120, 200] {
            let picture = picture(&mut top, width, 5);
            let told = picture[3].contains(longest) || width < 78;
            assert!(told && picture[3].contains(&longest[..7]), "{width}: {picture:?}");
        }
    }
    // The handshake's time has room beside an address, and only that.
    let narrow = picture(&mut top, 80, 5);
    assert!(narrow[2].contains("RTT") && !narrow[2].contains("FAILED"), "{narrow:?}");
}

#[test]
fn backends_of_a_service_a_filter_and_help() {
    let mut top = two_looks();
    picture(&mut top, 90, 8);
    press(&mut top, "Enter");
    let backends = picture(&mut top, 90, 8);
    assert_eq!(backends[1], " busy > backends  1-2 of 2");
    let words: Vec<_> = backends[3].split_whitespace().collect();
    assert_eq!(words, ["10.0.0.1:80", "serving", "50%", "10", "3", "0", "0", "1.00ms"]);
    press(&mut top, "/ 0 . 2");
    let filtered = picture(&mut top, 90, 8);
    assert_eq!(filtered[1], " busy > backends  /0.2_  1-1 of 1");
    assert!(filtered[3].starts_with(" 10.0.0.2:80"), "{filtered:?}");
    press(&mut top, "x");
    assert_eq!(picture(&mut top, 90, 8)[2], " nothing fits the filter; Esc clears it");
    press(&mut top, "Esc ?");
    let help = picture(&mut top, 90, 20).join("\n");
    assert!(help.contains("Ctrl-C") && help.contains("filter; Esc clears it"), "{help}");
}

#[test]
fn an_agent_that_is_away() {
    let mut top = two_looks();
    top.failed("no agent answers on /run/x".to_owned());
    let picture = picture(&mut top, 120, 6);
    assert!(picture[0].starts_with(" lb no answer"), "{picture:?}");
    assert!(picture[1].starts_with(" no agent answers on /run/x; what is shown is as it was"));
    assert!(picture[3].starts_with(" busy"), "{picture:?}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    for (plain, coloured) in [(true, false), (false, true)] {
        let mut top = Top::new(plain);
        top.answered(Duration::ZERO, answer(vec![service("idle", &[])]));
        let mut terminal = Terminal::new(TestBackend::new(80, 6)).unwrap();
        terminal.draw(|frame| draw(&mut top, frame, SystemTime::UNIX_EPOCH)).unwrap();
        let cells = &terminal.backend().buffer().content;
        assert_eq!(cells.iter().any(|cell| cell.fg != Color::Reset), coloured);
    }
}

#[test]
fn what_a_terminal_would_act_on_is_written_out() {
    let mut top = Top::new(false);
    let hostile = service("x\x1b[2J\u{202e}\n<b>", &[]);
    top.answered(Duration::ZERO, answer(vec![hostile]));
    let picture = picture(&mut top, 120, 6);
    assert!(picture[3].contains("x\\u{1b}[2J\\u{202e}\\n<b>"), "{picture:?}");
}
